"""`verify`: each way in which a packed data set can be damaged or lie has its sentence, and exit code 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dfml.data import index
from dfml.data.__main__ import main
from dfml.data.manifest import FILE_NAME
from dfml.data.packing import pack
from dfml.data.shards import shard_of
from tests.images import ANIMALS, row

SHARD, INDEX = "train-00000.parquet", "train.index.arrow"


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    pack(ANIMALS, tmp_path, "animals")
    return tmp_path


@pytest.fixture
def problems(animals: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Verifies the data set; returns the problems that are printed."""

    def problems() -> list[str]:
        code = main(["verify", str(animals), "--workers", "1"])
        printed, said = capsys.readouterr()
        *found, last = printed.splitlines()
        assert said == ""
        assert code == (1 if found else 0)
        assert last == f"{len(found) or 'no'} problem(s) in 5 images and 2 shard(s) of {animals}"
        return found

    return problems


def edit_manifest(place: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((place / FILE_NAME).read_text())
    edit(content)
    (place / FILE_NAME).write_text(json.dumps(content))


def replace(place: Path, name: str, content: bytes) -> None:
    """Another content of a file, to which the manifest is made to agree: the hashes tell nothing."""
    (place / name).write_bytes(content)
    new = {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def edit(manifest: dict[str, Any]) -> None:
        for file in [*manifest["shards"], *(split["index"] for split in manifest["splits"].values())]:
            if file["file"] == name:
                file.update(new)

    edit_manifest(place, edit)


def replace_index(place: Path, **columns: list[Any]) -> None:
    """An index with other values in its first rows."""
    table = pa.ipc.open_file((place / INDEX).read_bytes()).read_all()
    rows = {
        name: [*columns.get(name, []), *values[len(columns.get(name, [])) :]]
        for name, values in table.to_pydict().items()
    }
    replace(place, INDEX, index.to_bytes(pa.table(rows, schema=index.SCHEMA)))


def test_a_whole_data_set_has_no_problem(problems: Callable[[], list[str]]) -> None:
    assert problems() == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_each_damaged_file_is_named(animals: Path, workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (SHARD, "test-00000.parquet"):
        content = bytearray((animals / name).read_bytes())
        content[60] ^= 1
        (animals / name).write_bytes(content)
    assert main(["verify", str(animals), "--workers", workers]) == 1
    found = capsys.readouterr().out.splitlines()
    assert sorted(line.split(" is damaged: it has ")[0] for line in found[:2]) == ["test-00000.parquet", SHARD]
    assert found[2].startswith("2 problem(s)")


@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_a_flipped_bit_is_found(animals: Path, problems: Callable[[], list[str]], name: str) -> None:
    content = bytearray((animals / name).read_bytes())
    content[len(content) // 2] ^= 1
    (animals / name).write_bytes(content)
    (problem,) = problems()
    assert problem.startswith(f"{name} is damaged: it has {len(content)} bytes and SHA-256 ")
    assert problem.count(str(len(content))) == 2


@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_a_file_cut_short_is_found(animals: Path, problems: Callable[[], list[str]], name: str) -> None:
    content = (animals / name).read_bytes()
    (animals / name).write_bytes(content[:-100])
    (problem,) = problems()
    assert problem.startswith(f"{name} is damaged: it has {len(content) - 100} bytes ")
    assert f"the manifest says {len(content)} and " in problem


def test_missing_files_are_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    (animals / SHARD).unlink()
    assert problems() == [f"{SHARD} is missing"]
    (animals / INDEX).unlink()
    assert problems() == [f"{INDEX} is missing"]
    (animals / "test.index.arrow").unlink()
    assert problems() == [f"{INDEX} is missing", "test.index.arrow is missing"]


def test_a_file_that_cannot_be_read_is_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    (animals / SHARD).unlink()
    (animals / SHARD).mkdir()
    (problem,) = problems()
    assert problem.startswith(f"{SHARD} can't be read (")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"offset": [5]}, [f"{SHARD}: the index doesn't say where the image cat/0.png lies"]),
        ({"size": [7]}, [f"{SHARD}: the index doesn't say where the image cat/0.png lies"]),
        ({"crc32": [7]}, [f"{SHARD}: the index has another CRC-32 than the image cat/0.png"]),
        ({"path": ["cat/9.png"]}, [f"{SHARD} and the index differ in what they say of cat/9.png"]),
        ({"label": [1]}, [f"{SHARD} and the index differ in what they say of cat/0.png"]),
        ({"label": [0, 0]}, ["split 'train' has 2 classes by the manifest, 1 by train.index.arrow", f"{SHARD} and the index differ in what they say of dog/1.jpg"]),
        ({"label": [99, 1, 99]}, [f"{SHARD} and the index differ in what they say of cat/{file}" for file in ("0.png", "2.webp")]),
        ({"label": [-1, 1, -1]}, [f"{SHARD} and the index differ in what they say of cat/{file}" for file in ("0.png", "2.webp")]),
    ],
    ids=["offset", "size", "CRC-32", "path", "label", "a class less", "label too large", "negative label"],
)  # fmt: skip
def test_an_index_that_lies_is_found(
    animals: Path, problems: Callable[[], list[str]], columns: dict[str, list[Any]], expected: list[str]
) -> None:
    replace_index(animals, **columns)
    assert problems() == expected


def test_files_of_another_kind_are_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    replace(animals, SHARD, b"no Parquet file")
    (problem,) = problems()
    assert problem.startswith(f"{SHARD} is no shard that can be read (")
    replace(animals, INDEX, b"no Arrow file")
    (problem,) = problems()
    assert problem.startswith(f"{INDEX} is no index that can be read (")


def test_an_image_that_does_not_decode_is_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    content, located = shard_of([ANIMALS[0], row("dog", image=b"no image", path="dog/1.jpg"), ANIMALS[2]], [0, 1, 0])
    replace(animals, SHARD, content)
    replace(animals, INDEX, index.to_bytes(located))
    (problem,) = problems()
    assert problem.startswith(f"{SHARD}: dog/1.jpg can't be decoded (")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda m: m["splits"]["train"].update(rows=4), "split 'train' has 4 rows by the manifest, 3 by its shards, 3 by train.index.arrow"),
        (lambda m: m["shards"][0].update(rows=2), "split 'train' has 3 rows by the manifest, 2 by its shards, 3 by train.index.arrow"),
        (lambda m: m["splits"]["train"].update(classes=5), "split 'train' has 5 classes by the manifest, 2 by train.index.arrow"),
    ],
    ids=["rows of a split", "rows of a shard", "classes of a split"],
)  # fmt: skip
def test_wrong_counts_are_found(animals: Path, edit: Callable[[dict[str, Any]], None], expected: str, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    edit_manifest(animals, edit)
    assert main(["verify", str(animals), "--workers", "1"]) == 1
    assert capsys.readouterr().out.splitlines()[0] == expected


def test_a_shard_with_fewer_rows_than_both_say_is_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    content, _ = shard_of(ANIMALS[:2], [0, 1])
    replace(animals, SHARD, content)
    assert problems() == [f"{SHARD} has 2 rows, the manifest says 3"]


def test_a_class_of_another_name_is_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    edit_manifest(animals, lambda manifest: manifest["classes"].__setitem__(1, "wolf"))
    assert problems() == [f"{SHARD} and the index differ in what they say of dog/1.jpg"]
