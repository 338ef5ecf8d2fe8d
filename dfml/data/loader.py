"""From rows to batches of tensors, through torch's DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dfml.data.order import rank_share
from dfml.data.split import ClassSubset
from dfml.data.transforms import Normalisation, evaluation_transform, training_transform

if TYPE_CHECKING:
    from dfml.recipe import Recipe

Item = tuple[Tensor, int]  # image (3, H, W) float32, target


class _Training(Dataset[Item]):
    """Augmented images. What augmentation draws depends on (seed, epoch, row) alone: not on workers, ranks or history."""

    def __init__(self, subset: ClassSubset, recipe: Recipe, normalisation: Normalisation, epoch: int) -> None:
        self.subset = subset
        self.transform = training_transform(recipe, normalisation)
        self.entropy = (recipe.seed, epoch)

    def __getitem__(self, index: int) -> Item:
        row = int(self.subset.rows[index])
        draw = int(np.random.SeedSequence([*self.entropy, row]).generate_state(1, np.uint64)[0] >> 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw)
            return self.transform(self.subset.images.image(row)), int(self.subset.targets[index])


class _Evaluation(Dataset[Item]):
    def __init__(self, subset: ClassSubset, recipe: Recipe, normalisation: Normalisation) -> None:
        self.subset = subset
        self.transform = evaluation_transform(recipe, normalisation)

    def __getitem__(self, index: int) -> Item:
        return self.transform(self.subset.images.image(int(self.subset.rows[index]))), int(self.subset.targets[index])


def training_batches(
    subset: ClassSubset,
    batches: np.ndarray,
    recipe: Recipe,
    normalisation: Normalisation,
    epoch: int,
    rank: int,
    world_size: int,
    workers: int,
) -> DataLoader[Item]:
    """This rank's share of global batches (steps, batch_size), augmented: images (B, 3, H, W), targets (B,) int64."""
    shares = [rank_share(batch, rank, world_size).tolist() for batch in batches]
    return _loader(_Training(subset, recipe, normalisation, epoch), shares, workers)


def evaluation_batches(
    subset: ClassSubset, rows: np.ndarray, recipe: Recipe, normalisation: Normalisation, workers: int
) -> DataLoader[Item]:
    """Members `rows` of a subset in order, not augmented."""
    size = 128  # images; nothing is kept for a backward pass, so this fits wherever training does
    shares = [rows[start : start + size].tolist() for start in range(0, len(rows), size)]
    return _loader(_Evaluation(subset, recipe, normalisation), shares, workers)


def _loader(dataset: Dataset[Item], shares: Sequence[list[int]], workers: int) -> DataLoader[Item]:
    return DataLoader(dataset, batch_sampler=shares, num_workers=workers, pin_memory=torch.cuda.is_available())
