"""Properties of the order of training images, over seeds, epochs, batch shapes and class sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dfml.data.order import epoch_batches, rank_share
from dfml.errors import InvalidInput


def targets_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


EQUAL, UNEQUAL = [6] * 11, [1, 2, 3, 40, 7, 7, 5, 0, 12, 4, 9]
SHAPES = [(8, 2), (9, 3), (8, 4), (6, 1), (8, None), (7, None)]
EPOCHS = list(itertools.product((0, 1, 12345), (1, 2, 60)))


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("batch_size", "images_per_class"), SHAPES)
def test_no_index_comes_twice_in_an_epoch(sizes: list[int], batch_size: int, images_per_class: int | None) -> None:
    targets = targets_of(sizes)
    for seed, epoch in EPOCHS:
        batches = epoch_batches(targets, batch_size, images_per_class, seed, epoch)
        assert batches.shape[1:] == (batch_size,)
        assert len(np.unique(batches)) == batches.size
        assert 0 <= batches.min() <= batches.max() < len(targets)


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("batch_size", "images_per_class"), [shape for shape in SHAPES if shape[1]])
def test_balanced_batches_hold_exactly_k_images_of_each_of_p_classes(
    sizes: list[int], batch_size: int, images_per_class: int
) -> None:
    targets = targets_of(sizes)
    for seed, epoch in EPOCHS:
        for batch in epoch_batches(targets, batch_size, images_per_class, seed, epoch):
            classes, counts = np.unique(targets[batch], return_counts=True)
            assert len(classes) == batch_size // images_per_class
            assert set(counts) == {images_per_class}


@pytest.mark.parametrize(("batch_size", "images_per_class"), SHAPES)
def test_order_is_a_pure_function(batch_size: int, images_per_class: int | None) -> None:
    targets = targets_of(UNEQUAL)
    first = epoch_batches(targets, batch_size, images_per_class, 3, 4)
    np.random.seed(99)
    assert np.array_equal(first, epoch_batches(targets.copy(), batch_size, images_per_class, 3, 4))


@pytest.mark.parametrize(("batch_size", "images_per_class"), SHAPES)
def test_order_differs_between_epochs_and_between_seeds(batch_size: int, images_per_class: int | None) -> None:
    targets = targets_of(EQUAL)
    orders = [epoch_batches(targets, batch_size, images_per_class, seed, epoch).tolist() for seed, epoch in EPOCHS]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_seed_and_epoch_do_not_stand_for_one_another() -> None:
    targets = targets_of(EQUAL)
    assert not np.array_equal(epoch_batches(targets, 8, 2, 1, 2), epoch_batches(targets, 8, 2, 2, 1))


@pytest.mark.parametrize("images_per_class", [1, 2, 3, 5])
@pytest.mark.parametrize("classes_per_batch", [2, 3, 7])
def test_equal_classes_leave_fewer_than_p_groups_over(images_per_class: int, classes_per_batch: int) -> None:
    for classes, groups, seed in itertools.product((7, 10, 23), (1, 2, 5), range(3)):
        targets = targets_of([groups * images_per_class] * classes)
        batches = epoch_batches(targets, classes_per_batch * images_per_class, images_per_class, seed, 1)
        assert len(targets) - batches.size < classes_per_batch * images_per_class


def test_one_huge_class_does_not_shorten_the_epoch() -> None:
    """10 classes of 4 and one of 100, in batches of 2 × 2: each of the small classes' 20 groups pairs with one of the huge
    class's 50."""
    targets = targets_of([4] * 10 + [100])
    assert len(epoch_batches(targets, 4, 2, 0, 1)) == 20


def test_what_is_left_out_changes_with_the_epoch() -> None:
    targets = targets_of([5] * 8)
    left_out = [frozenset(range(40)) - set(epoch_batches(targets, 8, 2, 0, epoch).ravel()) for epoch in range(1, 40)]
    assert frozenset().union(*left_out) == set(range(40))


def test_every_image_comes_up_within_some_epochs_when_shuffled_plainly() -> None:
    targets = targets_of(UNEQUAL)
    seen = {index for epoch in range(1, 9) for index in epoch_batches(targets, 8, None, 0, epoch).ravel()}
    assert seen == set(range(len(targets)))


@pytest.mark.parametrize("world_size", range(1, 9))
def test_shares_of_the_ranks_are_disjoint_and_together_the_batch(world_size: int) -> None:
    batch = np.random.default_rng(0).permutation(100)[:27]
    shares = [rank_share(batch, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares)) == sorted(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("sizes", "batch_size", "images_per_class"),
    [([3, 3], 7, None), ([9, 9], 6, 2), ([1] * 20, 4, 2), ([8, 1, 1], 8, 4)],
    ids=["more than all", "more classes than there are", "no class large enough", "one class large enough"],
)
def test_batch_that_cannot_be_filled_is_refused(
    sizes: list[int], batch_size: int, images_per_class: int | None
) -> None:
    with pytest.raises(InvalidInput, match="batch_size"):
        epoch_batches(targets_of(sizes), batch_size, images_per_class, 0, 1)
