"""A packed data set read back: images, labels and paths of a split, and detected damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfml.data.datasets import SHIPPED
from dfml.data.format.manifest import read_manifest
from dfml.data.packing.pack import pack
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.errors import InvalidInput
from tests.images import ANIMALS, picture


@pytest.fixture
def packed_animals(tmp_path: Path) -> Path:
    pack(ANIMALS, tmp_path, "animals")
    return tmp_path


def test_images_labels_and_paths_come_back_in_order(packed_animals: Path) -> None:
    train, test = ShardedImages(packed_animals, "train"), ShardedImages(packed_animals, "test")
    assert (train.paths, test.paths) == (["cat/0.png", "dog/1.jpg", "cat/2.webp"], ["owl/3.png", "elk/4.png"])
    assert [train.class_names[label] for label in train.labels] == ["cat", "dog", "cat"]
    assert [test.class_names[label] for label in test.labels] == ["owl", "elk"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 0], [2, 3])
    for images, i, seed in ((train, 0, 0), (train, 2, 2), (test, 0, 3), (test, 1, 4)):  # the lossless ones
        assert np.array_equal(np.asarray(images.image(i)), np.asarray(picture(seed)))
    with Image.open(io.BytesIO(ANIMALS[1].image)) as jpeg:
        assert np.array_equal(np.asarray(train.image(1)), np.asarray(jpeg))
    assert len(train) == 3


# --- What is refused ------------------------------------------------------------------------------


def test_damaged_shard_is_named(packed_animals: Path) -> None:
    shard = packed_animals / "train-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[content.index(ANIMALS[1].image) + 20] ^= 1
    shard.write_bytes(content)
    images = ShardedImages(packed_animals, "train")
    assert images.encoded(0) == ANIMALS[0].image
    with pytest.raises(InvalidInput, match=r"train-00000\.parquet is damaged at image dog/1\.jpg.*CRC-32"):
        images.image(1)
    assert len(ShardedImages(packed_animals, "test")) == 2


def test_missing_shard_is_named(packed_animals: Path) -> None:
    (packed_animals / "train-00000.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"train-00000\.parquet of the manifest is missing"):
        ShardedImages(packed_animals, "train").image(0)


def test_unknown_split_names_those_there_are(packed_animals: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no split 'validation'; it has test, train"):
        ShardedImages(packed_animals, "validation")


# --- The data set that ships with the project -----------------------------------------------------


def test_shipped_emoji_are_whole() -> None:
    root = SHIPPED["emoji"]
    manifest = read_manifest(root)
    seen: list[set[str]] = []
    for name, split in manifest.splits.items():
        images = ShardedImages(root, name)
        seen.append({images.class_names[label] for label in images.labels})
        assert (len(images), len(seen[-1])) == (split.rows, split.classes)
        assert np.bincount(images.labels)[np.unique(images.labels)].min() >= 2  # every image can be a query
        assert images.image(0).mode == images.image(len(images) - 1).mode == "RGB"
    assert not set.intersection(*seen)
    assert set.union(*seen) == set(manifest.classes)
