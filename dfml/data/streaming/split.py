"""The class-disjoint validation split and the selection of rows by class (pure functions)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfml.data.streaming.sharded_images import ShardedImages
from dfml.task import TaskName

# Share of the training classes (docs/method.md), for retrieval.
VALIDATION_SHARE = 0.2
# Share of each class's images, for classification.
IMAGE_SHARE = 0.1


def holdout_classes(classes: np.ndarray, seed: int, share: float = VALIDATION_SHARE) -> tuple[np.ndarray, np.ndarray]:
    """Split class labels into (training, validation), each ascending."""
    shuffled = np.random.default_rng([seed, len(classes)]).permutation(np.sort(classes))
    cut = len(classes) - max(1, round(share * len(classes)))
    return np.sort(shuffled[:cut]), np.sort(shuffled[cut:])


def holdout_rows(labels: np.ndarray, seed: int, task: TaskName) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows to validate on, each ascending.

    For retrieval a fifth of the classes is held out (see `holdout_classes`); for classification a
    tenth of each class's images, and at least one if a class has two.
    """
    if task == "retrieval":
        _, classes = holdout_classes(np.unique(labels), seed)
        validating = np.isin(labels, classes)
        return np.flatnonzero(~validating), np.flatnonzero(validating)
    shuffled = np.random.default_rng([seed, len(labels)]).permutation(len(labels))
    # Grouped by class, shuffled within each class.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    held_out = np.where(counts > 1, np.maximum(1, np.round(IMAGE_SHARE * counts)), 0).astype(np.int64)
    validating = np.zeros(len(labels), dtype=bool)
    for start, count in zip(first, held_out, strict=True):
        validating[by_class[start : start + count]] = True
    return np.flatnonzero(~validating), np.flatnonzero(validating)


@dataclass(frozen=True)
class ClassSubset:
    """The rows of some classes of a split.

    Attributes:
        images: the images of the split.
        rows: the row in `images` of each member, ascending (n,).
        targets: the class of each member, numbered from 0 within the subset (n,).
        classes: the data set's label of each target.
    """

    images: ShardedImages
    rows: np.ndarray
    targets: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """Return the data set's label of each member (n,), which means the same in every split."""
        return self.classes[self.targets]


def subset_of_classes(images: ShardedImages, classes: np.ndarray | None = None) -> ClassSubset:
    """Return the rows whose label is in `classes` (None: all rows)."""
    kept = np.unique(images.labels) if classes is None else np.sort(classes)
    rows = np.flatnonzero(np.isin(images.labels, kept))
    return ClassSubset(images, rows, np.searchsorted(kept, images.labels[rows]), kept)


def subset_of_rows(images: ShardedImages, rows: np.ndarray) -> ClassSubset:
    """Return the subset of the given rows (ascending) and their classes."""
    classes, targets = np.unique(images.labels[rows], return_inverse=True)
    return ClassSubset(images, rows, targets, classes)


def training_and_validation(images: ShardedImages, seed: int, task: TaskName) -> tuple[ClassSubset, ClassSubset]:
    """Divide a training split by `holdout_rows`."""
    training, validating = holdout_rows(images.labels, seed, task)
    return subset_of_rows(images, training), subset_of_rows(images, validating)
