"""Batches of pixels: their images and augmentation, and what a model gets of them."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from dfml.data.format.shards import ImageRow
from dfml.data.packing.pack import pack
from dfml.data.streaming.loader import Batch, Loader
from dfml.data.streaming.order import epoch_batches, rank_share
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes, subset_of_rows
from dfml.data.streaming.transforms import Normalization, evaluation_transform, normalized
from dfml.errors import InvalidInput
from dfml.recipe import Recipe, recipe_from
from tests.dfml.conftest import drawn_images

CPU = torch.device("cpu")
BATCHES = np.array([[0, 7, 3, 12], [30, 5, 9, 21]])


@pytest.fixture
def subset(train_images: ShardedImages) -> ClassSubset:
    return subset_of_classes(train_images)


def drawn(
    subset: ClassSubset,
    recipe: Recipe,
    epoch: int = 1,
    rank: int = 0,
    world_size: int = 1,
    batches: np.ndarray = BATCHES,
    workers: int = 0,
) -> list[Batch]:
    with Loader(recipe, [subset], workers) as loader:
        return list(loader.training(subset, batches, epoch, rank, world_size))


def test_targets_are_those_of_the_batches(subset: ClassSubset, tiny_recipe: Recipe) -> None:
    for (images, targets), batch in zip(drawn(subset, tiny_recipe), BATCHES, strict=True):
        assert (images.shape, images.dtype) == ((4, 3, 32, 32), torch.uint8)
        assert targets.tolist() == subset.targets[batch].tolist()


def test_augmentation_does_not_depend_on_history_or_on_the_world_size(subset: ClassSubset, tiny_recipe: Recipe) -> None:
    whole = torch.stack([images for images, _ in drawn(subset, tiny_recipe)])
    torch.manual_seed(1234)
    for rank in range(3):
        share = torch.stack([images for images, _ in drawn(subset, tiny_recipe, rank=rank, world_size=3)])
        assert torch.equal(share, whole[:, rank_share(np.arange(4), rank, 3)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_going_on_at_any_step_gives_the_very_tensors_in_any_world(
    subset: ClassSubset, tiny_recipe: Recipe, workers: int, world_size: int
) -> None:
    batches = epoch_batches(subset.targets, 6, 2, 5, 1)
    assert len(batches) == 7
    whole = drawn(subset, tiny_recipe, batches=batches)
    torch.manual_seed(99)
    for step in (1,) if workers else (0, 1, len(batches) - 1):
        shares = [
            drawn(subset, tiny_recipe, 1, rank, world_size, batches[step:], workers) for rank in range(world_size)
        ]
        for number, (images, targets) in enumerate(whole[step:]):
            for rank, share in enumerate(shares):
                assert torch.equal(share[number][0], images[rank::world_size])
                assert torch.equal(share[number][1], targets[rank::world_size])


def test_augmentation_of_an_image_is_the_same_in_a_part_of_the_data_set(
    subset: ClassSubset, tiny_recipe: Recipe
) -> None:
    whole = torch.cat([images for images, _ in drawn(subset, tiny_recipe)])
    part = subset_of_rows(subset.images, np.sort(BATCHES.ravel()))  # whose first member isn't the first row
    order = np.searchsorted(part.rows, BATCHES)
    batches = drawn(part, tiny_recipe, batches=order)
    assert torch.equal(torch.cat([images for images, _ in batches]), whole)


def test_augmentation_differs_by_epoch_seed_and_image(subset: ClassSubset, tiny_recipe: Recipe) -> None:
    first = drawn(subset, tiny_recipe, epoch=1)[0][0]
    assert not torch.equal(first, drawn(subset, tiny_recipe, epoch=2)[0][0])
    assert not torch.equal(first, drawn(subset, tiny_recipe.model_copy(update={"seed": 1}), epoch=1)[0][0])


def test_an_image_that_comes_twice_in_a_batch_is_augmented_in_two_ways_in_any_world(
    subset: ClassSubset, tiny_recipe: Recipe
) -> None:
    batches = np.array([[3, 5, 3, 3], [5, 3, 6, 7]])
    whole = [images for images, _ in drawn(subset, tiny_recipe, batches=batches)]
    first, again, once_more = whole[0][[0, 2, 3]]
    assert not torch.equal(first, again)
    assert not torch.equal(again, once_more)
    assert not torch.equal(first, once_more)
    assert torch.equal(whole[1][1], first)
    for rank in range(2):
        share = drawn(subset, tiny_recipe, 1, rank, 2, batches)
        assert all(torch.equal(images, all_[rank::2]) for (images, _), all_ in zip(share, whole, strict=True))


def worker_pids() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def assert_equal(given: Iterable[Batch], expected: Iterable[Batch]) -> None:
    for (images, targets), (same_images, same_targets) in zip(given, expected, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(targets, same_targets)


def test_workers_live_from_the_first_batch_until_the_loader_is_closed(
    subset: ClassSubset, test_images: ShardedImages, tiny_recipe: Recipe
) -> None:
    """Whatever they served before, they make the batches that this process would make."""
    subsets, rows = [subset, subset_of_classes(test_images)], np.array([5, 1, 7])
    before, seen = worker_pids(), []
    with Loader(tiny_recipe, subsets, workers=2) as loader, Loader(tiny_recipe, subsets) as here:
        assert worker_pids() == before
        for epoch in (1, 2, 3):
            batches = np.roll(BATCHES, epoch)
            assert_equal(loader.training(subset, batches, epoch), here.training(subset, batches, epoch))
            seen.append(worker_pids() - before)
            assert_equal(loader.evaluation(subsets[1], rows), here.evaluation(subsets[1], rows))
            seen.append(worker_pids() - before)
    assert len(seen[0]) == 2
    assert all(pids == seen[0] for pids in seen)
    assert worker_pids() == before


def test_a_pass_that_is_left_early_or_fails_does_not_disturb_the_next(tiny_recipe: Recipe, tmp_path: Path) -> None:
    pack(drawn_images("train", 4, 3, 0), tmp_path, "drawn")
    subset = subset_of_classes(ShardedImages(tmp_path, "train"))
    shard = tmp_path / subset.images.shards[0].file
    content = shard.read_bytes()
    batches = np.arange(12).reshape(6, 2)
    with Loader(tiny_recipe, [subset], 2) as loader:
        next(loader.training(subset, batches, epoch=1))
        pids = worker_pids()
        assert_equal(loader.training(subset, batches, epoch=2), drawn(subset, tiny_recipe, 2, batches=batches))
        shard.write_bytes(bytes(len(content)))
        with pytest.raises(InvalidInput, match="damaged at image"):
            next(loader.training(subset, batches, epoch=3))
        shard.write_bytes(content)
        assert_equal(loader.training(subset, batches, epoch=3), drawn(subset, tiny_recipe, 3, batches=batches))
        assert worker_pids() == pids


def gradient_image(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).astype(np.uint8))


def one_image(root: Path) -> ClassSubset:
    stream = io.BytesIO()
    gradient_image(64, 64).save(stream, "PNG")
    pack([ImageRow(stream.getvalue(), "one", "one.png", "train")], root, "one")
    return subset_of_classes(ShardedImages(root, "train"))


def drawings_of_one(root: Path, recipe: Recipe, count: int) -> list[Tensor]:
    subset = one_image(root)
    return [drawn(subset, recipe, epoch, batches=np.array([[0]]))[0][0][0] / 255 for epoch in range(count)]


def test_images_are_flipped_half_of_the_time_and_only_if_the_recipe_says_so(tmp_path: Path) -> None:
    recipe = recipe_from({"image_size": 32, "crop_scale": 1.0})
    flipped = [bool(image[0, :, 0].mean() > image[0, :, -1].mean()) for image in drawings_of_one(tmp_path, recipe, 60)]
    assert 15 < sum(flipped) < 45
    unflipped = recipe.model_copy(update={"horizontal_flip": False})
    assert all(image[0, :, 0].mean() < image[0, :, -1].mean() for image in drawings_of_one(tmp_path, unflipped, 20))


def test_crops_are_no_smaller_than_the_recipe_says(tmp_path: Path) -> None:
    def areas(crop_scale: float) -> list[float]:
        recipe = recipe_from({"image_size": 32, "crop_scale": crop_scale, "horizontal_flip": False})
        return [
            float((image[0].max() - image[0].min()) * (image[1].max() - image[1].min()))
            for image in drawings_of_one(tmp_path, recipe, 40)
        ]

    assert min(areas(0.08)) < 0.3
    assert min(areas(0.7)) > 0.55  # the extreme pixels' blending takes a little off


def test_evaluation_reads_the_given_rows_in_order_without_augmentation(
    subset: ClassSubset, tiny_recipe: Recipe
) -> None:
    rows = np.array([30, 2, 17])
    with Loader(tiny_recipe, [subset]) as loader:
        (images, targets), *rest = loader.evaluation(subset, rows)
    assert not rest
    assert targets.tolist() == subset.targets[rows].tolist()
    transform = evaluation_transform(tiny_recipe)
    for image, row in zip(images, rows, strict=True):
        assert torch.equal(image, transform(subset.images.image(row)))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 64), (64, 200)])
def test_evaluation_resizes_the_shorter_side_and_crops_the_center(width: int, height: int) -> None:
    """The default is 224 of 256; here 32 of 64, so that half of the shorter side is kept."""
    recipe = recipe_from({"image_size": 32, "test_crop": 0.5})
    image = evaluation_transform(recipe)(gradient_image(width, height)) / 255
    assert image.shape == (3, 32, 32)
    for channel, side in ((image[0], width), (image[1], height)):
        seen = 0.5 * min(width, height) / side
        assert float(channel.min()) == pytest.approx(0.5 - seen / 2, abs=0.02)
        assert float(channel.max()) == pytest.approx(0.5 + seen / 2, abs=0.02)


def test_evaluation_takes_the_test_size() -> None:
    recipe = recipe_from({"image_size": 32, "test_size": 48})
    assert evaluation_transform(recipe)(gradient_image(64, 64)).shape == (3, 48, 48)


def test_values_are_normalized_per_channel() -> None:
    image = Image.new("RGB", (40, 40), (255, 0, 51))
    pixels = evaluation_transform(recipe_from({"image_size": 32}))(image)
    values = normalized(pixels[None], Normalization((0.5, 0.5, 0.1), (0.25, 0.5, 0.1)), CPU)
    torch.testing.assert_close(values[0, :, 0, 0], torch.tensor([2.0, -1.0, 1.0]))


def test_normalized_values_are_the_very_ones_of_torchvision() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    imagenet = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*imagenet)])(pixels)
    assert torch.equal(normalized(pixels, imagenet, CPU), expected)
    by_pixel = pixels.contiguous(memory_format=torch.channels_last)
    values = normalized(by_pixel, imagenet, CPU)
    assert torch.equal(values, expected)
    assert values.is_contiguous()


def test_normalizing_within_inference_mode_spoils_no_later_training() -> None:
    normalization = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with torch.inference_mode():
        normalized(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), normalization, CPU)
    weight = torch.ones(1, requires_grad=True)
    (weight * normalized(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), normalization, CPU)).sum().backward()
    assert float(weight.grad) == pytest.approx(-4 * (0.25 + 0.4 + 0.5))
