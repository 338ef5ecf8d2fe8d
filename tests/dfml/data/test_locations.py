"""One suite for every kind of location: a data set packed and read there is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dfml.data.format.images import decode
from dfml.data.format.manifest import is_packed, manifest_sha256, read_manifest
from dfml.data.format.shards import ImageRow
from dfml.data.packing.pack import pack
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.order import epoch_batches
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes
from dfml.errors import InvalidInput
from dfml.recipe import Recipe
from tests.s3.locations import PLACES, new_bucket, noisy_images, use
from tests.s3.servers import Server

IMAGES = list(noisy_images(23, side=40))
SHARD_BYTES = 6 * IMAGES[0].size


@pytest.fixture(scope="module", params=PLACES)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Server | None]:
    """Return a packed data set in each kind of location, which no test changes, and its server."""
    if request.param == "folder":
        uri, server = str(tmp_path_factory.mktemp("uri")), None
    else:
        server = request.getfixturevalue(request.param)
        uri = f"s3://{new_bucket(server)}/some/place"
    with pytest.MonkeyPatch.context() as monkeypatch:
        if server:
            use(server, monkeypatch)
        pack(IMAGES, uri, "noise", shard_bytes=SHARD_BYTES)
    return uri, server


@pytest.fixture
def images(packed: tuple[str, Server | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardedImages:
    uri, server = packed
    if server:
        use(server, monkeypatch)
    return ShardedImages(uri, "train", Cache(tmp_path / "cache"))


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> ShardedImages:
    """Return the same data set packed to a folder, with which all others are compared."""
    folder = tmp_path_factory.mktemp("in-a-folder")
    pack(IMAGES, folder, "noise", shard_bytes=SHARD_BYTES)
    return ShardedImages(folder, "train")


def test_the_manifest_and_all_files_are_the_same(images: ShardedImages, in_a_folder: ShardedImages) -> None:
    uri = images.uri
    assert read_manifest(uri) == read_manifest(in_a_folder.uri)
    assert manifest_sha256(uri) == manifest_sha256(in_a_folder.uri)
    assert len(images.shards) >= 4


def test_rows_are_the_images_that_were_packed(images: ShardedImages) -> None:
    packed = {image.path: image for image in IMAGES}
    assert sorted(images.paths) == sorted(packed)
    for row, path in enumerate(images.paths):
        assert images.encoded(row) == packed[path].image
        assert images.class_names[images.labels[row]] == packed[path].class_name
        assert same(images.image(row), decode(packed[path].image))


def test_a_glance_shows_the_image(images: ShardedImages, in_a_folder: ShardedImages) -> None:
    for row in (0, len(images) - 1):
        assert same(images.read_single(row), in_a_folder.image(row))
    # No shard was fetched.
    assert images.cache is None or not list(images.cache.folder.glob("*.parquet"))
    images.image(0)
    assert same(images.read_single(0), in_a_folder.image(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_the_same(
    images: ShardedImages, in_a_folder: ShardedImages, tiny_recipe: Recipe, workers: int
) -> None:
    def drawn(images: ShardedImages, workers: int) -> list[tuple[Tensor, Tensor]]:
        subset = subset_of_classes(images)
        batches = epoch_batches(subset.targets, 8, 2, 0, 1, images.shard_numbers[subset.rows], images.window)
        with Loader(tiny_recipe, [subset], workers) as loader:
            return list(loader.training(subset, batches, epoch=1))

    assert_equal(drawn(images, workers), drawn(in_a_folder, 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_batches_are_the_same(
    images: ShardedImages, in_a_folder: ShardedImages, tiny_recipe: Recipe, workers: int
) -> None:
    def read(images: ShardedImages, workers: int) -> list[tuple[Tensor, Tensor]]:
        subset: ClassSubset = subset_of_classes(images)
        with Loader(tiny_recipe, [subset], workers) as loader:
            return list(loader.evaluation(subset, np.array([21, 3, 4, 11])))

    assert_equal(read(images, workers), read(in_a_folder, 0))


def test_packing_again_finds_it_done_and_other_images_are_refused(images: ShardedImages) -> None:
    uri = images.uri
    before = manifest_sha256(uri)
    pack(IMAGES, uri, "noise", shard_bytes=SHARD_BYTES)
    assert manifest_sha256(uri) == before
    with pytest.raises(InvalidInput, match="holds another packed data set"):
        pack(IMAGES[1:], uri, "noise", shard_bytes=SHARD_BYTES)


def test_packing_that_was_stopped_goes_on(uri: str, tmp_path: Path, in_a_folder: ShardedImages) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise Stopped

    with pytest.raises(Stopped):
        pack(IMAGES, uri, "noise", shard_bytes=SHARD_BYTES, progress=stop)
    assert not is_packed(uri)
    pack(IMAGES, uri, "noise", shard_bytes=SHARD_BYTES)
    assert manifest_sha256(uri) == manifest_sha256(in_a_folder.uri)
    assert ShardedImages(uri, "train", Cache(tmp_path / "cache")).encoded(5) == in_a_folder.encoded(5)


def test_images_that_cannot_be_decoded_leave_no_manifest(uri: str) -> None:
    broken = ImageRow(IMAGES[0].image[:200], "class 0", "broken.jpg", "train")
    with pytest.raises(InvalidInput, match=r"broken\.jpg can't be decoded"):
        pack([*IMAGES, broken], uri, "noise", shard_bytes=SHARD_BYTES)
    assert not is_packed(uri)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def assert_equal(one: Sequence[tuple[Tensor, Tensor]], other: Sequence[tuple[Tensor, Tensor]]) -> None:
    assert len(one) == len(other) > 0
    for (images, targets), (expected, their_targets) in zip(one, other, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(targets, their_targets)
