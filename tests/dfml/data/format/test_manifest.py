"""The manifest: its contents, and files that are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dfml.data.format.manifest import FILE_NAME, File, read_manifest
from dfml.data.packing.pack import pack
from dfml.errors import InvalidInput
from tests.images import ANIMALS


@pytest.fixture
def packed_animals(tmp_path: Path) -> Path:
    pack(ANIMALS, tmp_path, "animals")
    return tmp_path


def test_manifest_counts_rows_and_classes_and_names_every_file(packed_animals: Path) -> None:
    manifest = read_manifest(packed_animals)
    counts = {name: (split.rows, split.classes) for name, split in manifest.splits.items()}
    assert counts == {"train": (3, 2), "test": (2, 2)}
    assert manifest.dataset == "animals"
    files = {shard.file for shard in manifest.shards} | {split.index.file for split in manifest.splits.values()}
    assert files | {FILE_NAME} == {path.name for path in packed_animals.iterdir()}


def test_manifest_gives_size_and_hash_of_each_file(packed_animals: Path) -> None:
    manifest = read_manifest(packed_animals)
    files: list[File] = [*manifest.shards, *(split.index for split in manifest.splits.values())]
    assert len(files) == 4
    for file in files:
        content = (packed_animals / file.file).read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("there", [True, False])
def test_folder_without_manifest_is_named(tmp_path: Path, there: bool) -> None:
    root = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(InvalidInput, match=f"{root} is not a packed data set"):
        read_manifest(root)


@pytest.mark.parametrize(("version", "mend"), [(3, "update the code"), (1, "pack the data set again")])
def test_manifest_of_another_format_is_refused(packed_animals: Path, version: int, mend: str) -> None:
    path = packed_animals / FILE_NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": version, "columns": ["new"]}))
    with pytest.raises(InvalidInput, match=rf"{path} has format version {version}; this code reads 2; {mend}"):
        read_manifest(packed_animals)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"format_version": "2"}', b'{"format_version": 2}', b"\xff\xfe\x00"],
    ids=["cut off", "list", "no version", "version is text", "no fields", "not text"],
)
def test_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(InvalidInput, match=f"{tmp_path / FILE_NAME} is not a valid manifest"):
        read_manifest(tmp_path)


def test_unknown_split_names_those_there_are(packed_animals: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no split 'validation'; it has test, train"):
        read_manifest(packed_animals).shards_of("validation")


@pytest.mark.parametrize(
    ("field", "value"), [("file", "../elsewhere.parquet"), ("file", "/etc/passwd"), ("sha256", "../" + "a" * 61)]
)
def test_names_that_lead_elsewhere_are_refused(packed_animals: Path, field: str, value: str) -> None:
    """A manifest may come from a stranger's bucket; its names become file names in the cache."""
    content = json.loads((packed_animals / FILE_NAME).read_text())
    content["shards"][0][field] = value
    (packed_animals / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=rf"is not a valid manifest \(.*shards\.0\.{field}"):
        read_manifest(packed_animals)
