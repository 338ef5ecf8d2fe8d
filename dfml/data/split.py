"""The class-disjoint validation split, and the choice of rows by class. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfml.data.shards import ShardedImages

VALIDATION_SHARE = 0.2  # of the training classes (DESIGN §3)


def holdout_classes(classes: np.ndarray, seed: int, share: float = VALIDATION_SHARE) -> tuple[np.ndarray, np.ndarray]:
    """Split class labels into (training, validation), each ascending; a pure function of the set of labels and the seed."""
    shuffled = np.random.default_rng([seed, len(classes)]).permutation(np.sort(classes))
    cut = len(classes) - max(1, round(share * len(classes)))
    return np.sort(shuffled[:cut]), np.sort(shuffled[cut:])


@dataclass(frozen=True)
class ClassSubset:
    """The rows of some classes of a split.

    Attributes:
        images: the split they belong to.
        rows: row in `images` of each member, ascending (n,).
        targets: class of each member, counted from 0 among the subset's classes (n,).
        classes: the data set's label for each target.
    """

    images: ShardedImages
    rows: np.ndarray
    targets: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def subset_of_classes(images: ShardedImages, classes: np.ndarray | None = None) -> ClassSubset:
    """The rows whose label is in `classes`; all rows without it."""
    kept = np.unique(images.labels) if classes is None else np.sort(classes)
    rows = np.flatnonzero(np.isin(images.labels, kept))
    return ClassSubset(images, rows, np.searchsorted(kept, images.labels[rows]), kept)
