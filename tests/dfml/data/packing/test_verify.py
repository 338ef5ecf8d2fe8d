"""`verify`: each kind of damage or wrong entry is reported in a sentence, with exit code 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dfml.data.__main__ import main
from dfml.data.format import index
from dfml.data.format.manifest import FILE_NAME
from dfml.data.format.shards import shard_of
from dfml.data.packing.pack import pack
from tests.images import ANIMALS, row

SHARD, INDEX = "train-00000.parquet", "train.index.arrow"
# The beginnings of two messages.
WRONG_POSITION = f"{SHARD}: the index has a wrong position for the image"
DIFFERENT_ENTRIES = f"{SHARD} and the index have different entries for"


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    pack(ANIMALS, tmp_path, "animals")
    return tmp_path


@pytest.fixture
def problems(animals: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Return a function that verifies the data set and returns the printed problems."""

    def problems() -> list[str]:
        code = main(["verify", str(animals), "--workers", "1"])
        printed, said = capsys.readouterr()
        *found, last = printed.splitlines()
        assert said == ""
        assert code == (1 if found else 0)
        assert last == f"{len(found) or 'no'} problem(s) in 5 images and 2 shard(s) of {animals}"
        return found

    return problems


def edit_manifest(uri: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((uri / FILE_NAME).read_text())
    edit(content)
    (uri / FILE_NAME).write_text(json.dumps(content))


def replace(uri: Path, name: str, content: bytes) -> None:
    """Replace a file and its hash in the manifest, so that the hashes don't reveal it."""
    (uri / name).write_bytes(content)
    new = {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def edit(manifest: dict[str, Any]) -> None:
        for file in [*manifest["shards"], *(split["index"] for split in manifest["splits"].values())]:
            if file["file"] == name:
                file.update(new)

    edit_manifest(uri, edit)


def replace_index(uri: Path, **columns: list[Any]) -> None:
    """Replace the index by one with other values in its first rows."""
    table = pa.ipc.open_file((uri / INDEX).read_bytes()).read_all()
    rows = {
        name: [*columns.get(name, []), *values[len(columns.get(name, [])) :]]
        for name, values in table.to_pydict().items()
    }
    replace(uri, INDEX, index.to_bytes(pa.table(rows, schema=index.SCHEMA)))


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
    assert f"not the manifest's {len(content)} and " in problem


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
        ({"offset": [5]}, [f"{WRONG_POSITION} cat/0.png"]),
        ({"size": [7]}, [f"{WRONG_POSITION} cat/0.png"]),
        ({"crc32": [7]}, [f"{SHARD}: the index has a wrong CRC-32 for the image cat/0.png"]),
        ({"path": ["cat/9.png"]}, [f"{DIFFERENT_ENTRIES} cat/9.png"]),
        ({"label": [1]}, [f"{DIFFERENT_ENTRIES} cat/0.png"]),
        (
            {"label": [0, 0]},
            [
                f"split 'train' has 2 classes according to the manifest, 1 according to {INDEX}",
                f"{DIFFERENT_ENTRIES} dog/1.jpg",
            ],
        ),
        ({"label": [99, 1, 99]}, [f"{DIFFERENT_ENTRIES} cat/{file}" for file in ("0.png", "2.webp")]),
        ({"label": [-1, 1, -1]}, [f"{DIFFERENT_ENTRIES} cat/{file}" for file in ("0.png", "2.webp")]),
    ],
    ids=["offset", "size", "CRC-32", "path", "label", "a class less", "label too large", "negative label"],
)
def test_an_index_that_lies_is_found(
    animals: Path, problems: Callable[[], list[str]], columns: dict[str, list[Any]], expected: list[str]
) -> None:
    replace_index(animals, **columns)
    assert problems() == expected


def test_files_of_another_kind_are_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    replace(animals, SHARD, b"no Parquet file")
    (problem,) = problems()
    assert problem.startswith(f"{SHARD} is not a valid shard (")
    replace(animals, INDEX, b"no Arrow file")
    (problem,) = problems()
    assert problem.startswith(f"{INDEX} is not a valid index (")


def test_an_image_that_does_not_decode_is_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    content, located = shard_of([ANIMALS[0], row("dog", image=b"no image", path="dog/1.jpg"), ANIMALS[2]], [0, 1, 0])
    replace(animals, SHARD, content)
    replace(animals, INDEX, index.to_bytes(located))
    (problem,) = problems()
    assert problem.startswith(f"{SHARD}: dog/1.jpg can't be decoded (")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda m: m["splits"]["train"].update(rows=4),
            f"split 'train' has 4 rows according to the manifest, 3 according to its shards, 3 according to {INDEX}",
        ),
        (
            lambda m: m["shards"][0].update(rows=2),
            f"split 'train' has 3 rows according to the manifest, 2 according to its shards, 3 according to {INDEX}",
        ),
        (
            lambda m: m["splits"]["train"].update(classes=5),
            f"split 'train' has 5 classes according to the manifest, 2 according to {INDEX}",
        ),
    ],
    ids=["rows of a split", "rows of a shard", "classes of a split"],
)
def test_wrong_counts_are_found(
    animals: Path,
    edit: Callable[[dict[str, Any]], None],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit_manifest(animals, edit)
    assert main(["verify", str(animals), "--workers", "1"]) == 1
    assert capsys.readouterr().out.splitlines()[0] == expected


def test_a_shard_with_fewer_rows_than_both_say_is_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    content, _ = shard_of(ANIMALS[:2], [0, 1])
    replace(animals, SHARD, content)
    assert problems() == [f"{SHARD} has 2 rows, not the manifest's 3"]


def test_a_class_of_another_name_is_found(animals: Path, problems: Callable[[], list[str]]) -> None:
    edit_manifest(animals, lambda manifest: manifest["classes"].__setitem__(1, "wolf"))
    assert problems() == [f"{DIFFERENT_ENTRIES} dog/1.jpg"]
