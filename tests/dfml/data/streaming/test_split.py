"""The class-disjoint validation split."""

from __future__ import annotations

import numpy as np
import pytest

from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import holdout_classes, subset_of_classes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 5, 11, 98, 703])
def test_split_divides_the_classes(count: int, seed: int) -> None:
    classes = np.arange(count) * 2 + 7
    training, validation = holdout_classes(classes, seed)
    assert sorted([*training, *validation]) == list(classes)
    assert len(training) >= 1
    assert len(validation) >= 1


@pytest.mark.parametrize(("share", "held_out"), [(0.2, 20), (0.05, 5), (0.5, 50)])
def test_share_of_the_classes_is_held_out(share: float, held_out: int) -> None:
    assert len(holdout_classes(np.arange(100), 0, share)[1]) == held_out


def test_a_fifth_is_held_out_unless_told_otherwise() -> None:
    assert len(holdout_classes(np.arange(100), 0)[1]) == 20


def test_split_depends_on_the_set_of_classes_and_the_seed_alone() -> None:
    classes = np.arange(50)
    first = holdout_classes(classes, 7)
    again = holdout_classes(np.random.default_rng(1).permutation(classes), 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_another_seed_gives_another_split() -> None:
    assert not np.array_equal(holdout_classes(np.arange(50), 0)[1], holdout_classes(np.arange(50), 1)[1])


def test_both_parts_are_ascending() -> None:
    for part in holdout_classes(np.random.default_rng(1).permutation(50), 3):
        assert (np.diff(part) > 0).all()


def test_subset_holds_the_rows_of_its_classes_with_targets_from_0(train_images: ShardedImages) -> None:
    subset = subset_of_classes(train_images, np.array([5, 1, 3]))
    assert subset.classes.tolist() == [1, 3, 5]
    assert subset.rows.tolist() == [row for row, label in enumerate(train_images.labels) if label in (1, 3, 5)]
    assert [subset.classes[target] for target in subset.targets] == [train_images.labels[row] for row in subset.rows]
    assert sorted(set(subset.targets.tolist())) == [0, 1, 2]
    assert len(subset) == 15


def test_without_classes_the_subset_is_the_whole_split(test_images: ShardedImages) -> None:
    """Labels of the test split don't start at 0, but targets do."""
    subset = subset_of_classes(test_images)
    assert subset.rows.tolist() == list(range(12))
    assert subset.classes.tolist() == [7, 8, 9, 10]
    assert sorted(set(subset.targets.tolist())) == [0, 1, 2, 3]
