"""Shards and the index: positions of images in shards, and reading the files by other tools."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dfml.data.format.index import read_index
from dfml.data.format.manifest import read_manifest
from dfml.data.format.shards import ImageRow, shard_of
from dfml.data.packing.pack import pack
from tests.images import ANIMALS, encoded, picture


def rows_of(*images: bytes) -> list[ImageRow]:
    return [ImageRow(image, "class", f"{i}", "train") for i, image in enumerate(images)]


ONE = encoded(picture(1), "PNG")
NOISE = np.random.default_rng(0).bytes
CASES = {
    "one": [ONE],
    "equal images": [ONE] * 5,
    "an image within the next": [ONE, ONE + b"tail", b"head" + ONE, ONE],
    "an image within the one before": [b"head" + ONE + b"tail", ONE, ONE[:20]],
    "bytes that repeat": [b"\0" * 50, b"\0" * 7, b"\0" * 51, b"\0"],
    "bytes as in the file's own head": [b"PAR1", b"PAR1" * 3, ONE],
    "larger than Parquet's pages": [NOISE(3 * 2**20), ONE, NOISE(2**20 + 1), ONE],
    "many": [NOISE(100 + i) for i in range(5000)],
}


@pytest.mark.parametrize("images", CASES.values(), ids=CASES)
def test_bytes_at_the_offsets_are_the_images(images: list[bytes]) -> None:
    content, located = shard_of(rows_of(*images), [0] * len(images))
    where = list(zip(located["offset"].to_pylist(), located["size"].to_pylist(), strict=True))
    assert [content[offset : offset + size] for offset, size in where] == images
    assert located["crc32"].to_pylist() == [zlib.crc32(image) for image in images]
    assert pq.read_table(pa.BufferReader(content))["image"].to_pylist() == images


@pytest.fixture
def packed_animals(tmp_path: Path) -> Path:
    pack(ANIMALS, tmp_path, "animals", shard_bytes=1)  # one image per shard
    return tmp_path


def test_index_says_of_each_row_its_shard_label_and_path(packed_animals: Path) -> None:
    manifest = read_manifest(packed_animals)
    found = {}
    for split in manifest.splits:
        rows = read_index(packed_animals / manifest.split(split).index.file, manifest, split)
        files = [shard.file for shard in manifest.shards_of(split)]
        for row, path in enumerate(rows.paths):
            content = (packed_animals / files[rows.shards[row]]).read_bytes()
            image = content[rows.offsets[row] : rows.offsets[row] + rows.sizes[row]]
            assert rows.fits(row, image)
            assert not rows.fits(row, image[:-1] + bytes([image[-1] ^ 1]))
            found[path] = (image, manifest.classes[rows.labels[row]], split)
    assert found == {animal.path: (animal.image, animal.class_name, animal.split) for animal in ANIMALS}


def test_encoded_bytes_are_kept_as_found_and_other_tools_can_read_them(tmp_path: Path) -> None:
    pack(ANIMALS, tmp_path, "animals")
    table = pq.read_table(tmp_path / "train-00000.parquet").to_pydict()
    assert table["image"] == [animal.image for animal in ANIMALS[:3]]
    assert table["label"] == [0, 1, 0]
    assert table["class_name"] == ["cat", "dog", "cat"]
    assert table["split"] == ["train"] * 3


def test_other_tools_read_all_shards_of_the_folder_at_once(packed_animals: Path) -> None:
    """The files' extensions distinguish shards from the index and the manifest."""
    table = pyarrow.dataset.dataset(sorted(map(str, packed_animals.glob("*.parquet")))).to_table().to_pylist()
    assert {row["path"]: row["image"] for row in table} == {animal.path: animal.image for animal in ANIMALS}
    pandas = pytest.importorskip("pandas")
    frame = pandas.concat(pandas.read_parquet(file) for file in sorted(packed_animals.glob("*.parquet")))
    assert sorted(frame["class_name"]) == ["cat", "cat", "dog", "elk", "owl"]
    assert set(frame["path"]) == {animal.path for animal in ANIMALS}


def test_labels_can_be_read_without_the_images(packed_animals: Path) -> None:
    file = pq.ParquetFile(packed_animals / "test-00000.parquet")
    assert file.read(["label", "class_name"]).column_names == ["label", "class_name"]
    # Statistics would hold whole images.
    assert file.metadata.row_group(0).column(0).statistics is None
