"""Properties of the order of training images, over seeds, epochs, batch shapes and class sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dfml.data.streaming.order import epoch_batches, rank_share
from dfml.errors import InvalidInput


def targets_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def hold_k_of_each_of_some_classes(batches: np.ndarray, targets: np.ndarray, k: int) -> bool:
    """Return whether each class in each batch has exactly k images, counting repeated ones."""
    groups = np.sort(targets[batches], axis=1).reshape(len(batches), -1, k)
    alike = (groups == groups[:, :, :1]).all()
    return bool(alike and (np.diff(groups[:, :, 0], axis=1) > 0).all())


EQUAL, UNEQUAL = [6] * 11, [1, 2, 3, 40, 7, 7, 5, 0, 12, 4, 9]
SHAPES = [(8, 2), (9, 3), (8, 4), (6, 1), (8, None), (7, None)]
EPOCHS = list(itertools.product((0, 1, 12345), (1, 2, 60)))


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("batch_size", "images_per_class"), SHAPES)
def test_an_index_comes_twice_in_an_epoch_only_where_k_does_not_divide_its_class(
    sizes: list[int], batch_size: int, images_per_class: int | None
) -> None:
    targets = targets_of(sizes)
    for seed, epoch in EPOCHS:
        batches = epoch_batches(targets, batch_size, images_per_class, seed, epoch)
        assert batches.shape[1:] == (batch_size,)
        assert 0 <= batches.min() <= batches.max() < len(targets)
        k = images_per_class or 1
        times = np.bincount(batches.ravel(), minlength=len(targets))
        for label, size in enumerate(np.bincount(targets)):
            most = 1 if size % k == 0 else -(-k // size) if size < k else 2
            assert times[targets == label].max(initial=0) <= most
            assert times[targets == label].sum() <= -(-size // k) * k


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("batch_size", "images_per_class"), [shape for shape in SHAPES if shape[1]])
def test_balanced_batches_hold_exactly_k_images_of_each_of_p_classes(
    sizes: list[int], batch_size: int, images_per_class: int
) -> None:
    targets = targets_of(sizes)
    for seed, epoch in EPOCHS:
        batches = epoch_batches(targets, batch_size, images_per_class, seed, epoch)
        assert hold_k_of_each_of_some_classes(batches, targets, images_per_class)


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
    """10 classes of 4 images and one of 100, in batches of 2 × 2.

    Each of the small classes' 20 groups pairs with one of the huge class's 50.
    """
    targets = targets_of([4] * 10 + [100])
    assert len(epoch_batches(targets, 4, 2, 0, 1)) == 20


@pytest.mark.parametrize("shards", [1, 7])
@pytest.mark.parametrize("batch_size", [8, 12, 16])
def test_classes_of_fewer_than_k_images_are_trained_on(batch_size: int, shards: int) -> None:
    """With four images per class, three epochs draw each of 200 images of classes of 2, 3 and 5."""
    targets = targets_of([2, 3, 5] * 20)
    where = np.random.default_rng(1).integers(0, shards, len(targets))
    for seed in range(5):
        epochs = [epoch_batches(targets, batch_size, 4, seed, epoch, where) for epoch in (1, 2, 3)]
        assert len(np.unique(np.concatenate(epochs))) == 200
        assert hold_k_of_each_of_some_classes(np.concatenate(epochs), targets, 4)


def test_a_filled_up_group_repeats_no_image_more_often_than_it_must() -> None:
    (batch,) = epoch_batches(np.repeat([0, 1, 2], [2, 3, 4]), 12, 4, 0, 1)
    assert sorted(np.unique(batch, return_counts=True)[1].tolist()) == [1, 1, 1, 1, 1, 1, 2, 2, 2]


def test_what_is_left_out_changes_with_the_epoch() -> None:
    targets = targets_of([4] * 9)
    left_out = [frozenset(range(36)) - set(epoch_batches(targets, 8, 2, 0, epoch).ravel()) for epoch in range(1, 40)]
    assert {len(left) for left in left_out} == {4}
    assert frozenset().union(*left_out) == set(range(36))


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
    [([3, 3], 7, None), ([9, 9], 6, 2), ([8, 0], 8, 4)],
    ids=["more than all", "more classes than there are", "a class without an image"],
)
def test_batch_that_cannot_be_filled_is_refused(
    sizes: list[int], batch_size: int, images_per_class: int | None
) -> None:
    with pytest.raises(InvalidInput, match="batch_size"):
        epoch_batches(targets_of(sizes), batch_size, images_per_class, 0, 1)


# --- Chunks of shards -----------------------------------------------------------------------------

WINDOWS = [None, 1, 2, 5]
# The number of images in each shard.
LAYOUTS = {
    "one": [60],
    "even": [20] * 8,
    "uneven": [3, 50, 1, 17, 30, 8, 8, 8, 2, 40, 11],
    "smaller than a batch": [3] * 40,
}
every_layout = pytest.mark.parametrize("layout", list(LAYOUTS.values()), ids=list(LAYOUTS))
every_window = pytest.mark.parametrize("window", WINDOWS)
every_shape = pytest.mark.parametrize(("batch_size", "images_per_class"), [(8, None), (7, None), (8, 2), (9, 3)])
SEEDS = range(10)


def data_set(layout: list[int], classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and shards of a data set whose shards are mixed, like packed ones."""
    shards = np.repeat(np.arange(len(layout)), layout)
    return np.random.default_rng(1).integers(0, classes, len(shards)), shards


@every_layout
@every_window
@every_shape
def test_each_epoch_is_a_permutation_but_for_the_stated_remainder(
    layout: list[int], window: int | None, batch_size: int, images_per_class: int | None
) -> None:
    targets, shards = data_set(layout)
    for seed, epoch in itertools.product(SEEDS, (1, 2, 7)):
        batches = epoch_batches(targets, batch_size, images_per_class, seed, epoch, shards, window)
        left = np.setdiff1d(np.arange(len(targets)), batches)
        if images_per_class is None:
            assert len(np.unique(batches)) == batches.size == len(targets) - len(left)
            assert len(left) < batch_size
        else:  # of fewer than P classes; each class's last group may have been filled up
            assert len(np.unique(targets[left])) < batch_size // images_per_class
            assert batches.size - len(np.unique(batches)) <= (images_per_class - 1) * len(np.unique(targets))
            assert hold_k_of_each_of_some_classes(batches, targets, images_per_class)


@every_window
@every_shape
def test_ranks_share_each_batch_and_another_world_goes_on_with_the_same(
    window: int | None, batch_size: int, images_per_class: int | None
) -> None:
    targets, shards = data_set(LAYOUTS["uneven"])

    def run(world_size: int, seed: int, first: int = 0) -> list[list[int]]:
        """Return each step's images on all ranks together, from step `first` on."""
        batches = epoch_batches(targets, batch_size, images_per_class, seed, 1, shards, window)
        steps = []
        for batch in batches[first:]:
            shares = [rank_share(batch, rank, world_size).tolist() for rank in range(world_size)]
            steps.append(sorted(image for share in shares for image in share))
        return steps

    for seed in range(3):
        whole = run(1, seed)
        if images_per_class is None:
            assert all(len(set(step)) == batch_size for step in whole)
        for world_size in range(1, 9):
            first = 3 * world_size % len(whole)
            assert run(world_size, seed, first) == whole[first:]


def chunks_of(batches: np.ndarray, shards: np.ndarray) -> list[set[int]]:
    """Return the shards that occur for the first time in each batch."""
    known: set[int] = set()
    new = []
    for batch in batches:
        new.append(set(shards[batch].tolist()) - known)
        known |= new[-1]
    return new


def test_the_first_epoch_begins_with_one_shard_and_each_chunk_doubles_what_is_there() -> None:
    """Chunks have 1, 1, 2, 4, 8 shards: a share of an epoch needs at most twice as many shards."""
    targets, shards = data_set([20] * 16)
    for seed in SEEDS:
        batches = epoch_batches(targets, 10, None, seed, 1, shards)
        needed = np.cumsum([len(new) for new in chunks_of(batches, shards)])
        assert needed[1] == 1
        for done, known in zip(np.arange(1, len(batches) + 1) * 10 / 20, needed, strict=True):  # in shards
            assert known <= max(1, 2 * np.ceil(done))
        ends = np.cumsum([0, 2, 2, 4, 8, 16])
        chunks = [batches[start:end] for start, end in itertools.pairwise(ends)]
        assert [len(np.unique(shards[chunk])) for chunk in chunks] == [1, 1, 2, 4, 8]


@every_layout
@pytest.mark.parametrize("window", [1, 2, 5])
def test_no_more_shards_than_the_window_are_read_at_a_time(layout: list[int], window: int) -> None:
    """A shard is read from its first image to its last.

    In addition to the chunk's shards a batch may read images that earlier chunks left over, fewer
    than a batch.
    """
    targets, shards = data_set(layout)
    for seed, epoch in itertools.product(SEEDS, (1, 2, 7)):
        read = shards[epoch_batches(targets, 8, None, seed, epoch, shards, window)]
        spans = np.stack([np.flatnonzero((read == shard).any(axis=1))[[0, -1]] for shard in np.unique(read)])
        steps = np.arange(len(read))[:, None]
        at_a_time = np.count_nonzero((spans[:, 0] <= steps) & (steps <= spans[:, 1]), axis=1)
        assert at_a_time.max() <= window + 7


@pytest.mark.parametrize(("epoch", "window"), [(2, None), (9, None), (2, 8), (1, None)])
def test_without_a_window_later_epochs_are_exact_global_shuffles(epoch: int, window: int | None) -> None:
    """As without shards; the first epoch is different, unless there is only one shard."""
    targets, shards = data_set(LAYOUTS["even"])
    if epoch == 1:
        shards = np.zeros_like(shards)
    for seed in SEEDS:
        with_shards = epoch_batches(targets, 8, None, seed, epoch, shards, window)
        assert np.array_equal(with_shards, epoch_batches(targets, 8, None, seed, epoch))


@pytest.mark.parametrize(("epoch", "window"), [(2, None), (1, None), (2, 2)])
def test_every_position_has_every_row_equally_often(epoch: int, window: int | None) -> None:
    """The mean row at a position, over many seeds, is the middle one, with and without chunks."""
    rows, seeds = 160, 400
    targets, shards = data_set(LAYOUTS["even"])
    orders = np.stack([epoch_batches(targets, 8, None, seed, epoch, shards, window).ravel() for seed in range(seeds)])
    assert orders.shape == (seeds, rows)
    deviation = rows / np.sqrt(12 * seeds)  # of such a mean
    assert np.abs(orders.mean(axis=0) - (rows - 1) / 2).max() < 5 * deviation


@every_shape
def test_a_subset_of_the_images_may_leave_out_shards(batch_size: int, images_per_class: int | None) -> None:
    """All images of some shards belong to classes that are held out."""
    targets, shards = data_set(LAYOUTS["uneven"])
    kept = ~np.isin(shards, [0, 4, 10])
    batches = epoch_batches(targets[kept], batch_size, images_per_class, 0, 1, shards[kept], window=2)
    assert images_per_class or len(np.unique(batches)) == batches.size
    assert batches.max() < np.count_nonzero(kept)
