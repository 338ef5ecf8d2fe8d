"""Batches of tensors from rows of a data set, through torch's DataLoader."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dfml.child_process import end_with
from dfml.data.streaming.fetching import Fetcher
from dfml.data.streaming.order import rank_share
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset
from dfml.data.streaming.transforms import evaluation_transform, training_transform
from dfml.errors import InvalidInput, RunFailed
from dfml.s3 import Unreachable

if TYPE_CHECKING:
    from dfml.recipe import Recipe

Item = tuple[Tensor, int]  # image (3, H, W) uint8, target
Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W) uint8, targets (B,) int64
Refusal = InvalidInput | RunFailed | Unreachable


class _Training(Dataset[Item]):
    """Augmented images.

    Index i + n * (number of images) is the n-th repetition of image i within a batch. Augmentation
    depends only on (seed, epoch, row, n), not on workers, ranks or history.
    """

    def __init__(self, subset: ClassSubset, recipe: Recipe, epoch: int) -> None:
        self.subset = subset
        self.transform = training_transform(recipe)
        self.draws = _draws(recipe.seed, epoch, subset.rows)

    def __getitem__(self, index: int) -> Item:
        again, member = divmod(index, len(self.draws))
        # torch.manual_seed also checks for GPUs, which takes 0.1 ms.
        torch.default_generator.manual_seed(int(self.draws[member]) + again)
        image = self.subset.images.image(int(self.subset.rows[member]))
        return self.transform(image), int(self.subset.targets[member])


def _times_before(batches: np.ndarray) -> np.ndarray:
    """Return how often each index occurs earlier in its batch, (steps, batch_size)."""
    order = np.argsort(batches, axis=1, kind="stable")
    in_order = np.take_along_axis(batches, order, axis=1)
    position = np.arange(batches.shape[1])
    begins = np.concatenate([np.ones((len(batches), 1), dtype=bool), in_order[:, 1:] != in_order[:, :-1]], axis=1)
    times = np.empty_like(batches)
    np.put_along_axis(times, order, position - np.maximum.accumulate(begins * position, axis=1), axis=1)
    return times


def _draws(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """Return the seed of each row's augmentation, int64 from 0.

    A row's seed doesn't depend on which other rows a subset has.
    """
    return np.random.default_rng([seed, epoch]).integers(2**63, size=rows.max(initial=-1) + 1)[rows]


class _Evaluation(Dataset[Item]):
    def __init__(self, subset: ClassSubset, recipe: Recipe) -> None:
        self.subset = subset
        self.transform = evaluation_transform(recipe)

    def __getitem__(self, index: int) -> Item:
        return self.transform(self.subset.images.image(int(self.subset.rows[index]))), int(self.subset.targets[index])


class _WholeBatches(Dataset[Batch | Refusal]):
    """Whole batches of items, or the error that the first bad item raised.

    The error is returned as a value: raised in a worker it would lose its one-line message.
    """

    def __init__(self, items: Dataset[Item]) -> None:
        self.items = items

    def __getitems__(self, indices: list[int]) -> Batch | Refusal:
        try:
            # Items seed the global generator, from which others draw, too, if there are no workers.
            with torch.random.fork_rng(devices=[]):
                images, targets = default_collate([self.items[index] for index in indices])
        except (InvalidInput, RunFailed, Unreachable) as error:
            return error
        return images, targets


class _Lists(Sampler[list[int]]):
    """Lists of indices, made one batch at a time: an epoch of ImageNet would take 50 MB."""

    def __init__(self, indices: Sequence[np.ndarray]) -> None:
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.indices:
            yield index.tolist()


def _start_worker(parent: int, number: int) -> None:
    end_with(parent)


def _as_it_is(batch: Any) -> Any:
    return batch


class Batches:
    """Batches of tensors in order; their shards are fetched ahead.

    Args:
        items: the images and targets by index.
        images: the images whose shards are fetched.
        indices: the indices of each batch in `items`.
        rows: the rows of each batch in `images`.
        workers: the number of processes that decode and augment; 0: this process does.
    """

    def __init__(
        self,
        items: Dataset[Item],
        images: ShardedImages,
        indices: Sequence[np.ndarray],
        rows: Sequence[np.ndarray],
        workers: int,
    ) -> None:
        self._images = images
        self._rows = rows
        self._loader: DataLoader[Batch | Refusal] = DataLoader(
            _WholeBatches(items),
            batch_sampler=_Lists(indices),
            num_workers=workers,
            # Forked workers share the index's memory.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=partial(_start_worker, os.getpid()),
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            InvalidInput: the data set is damaged, or the cache has no room.
            Unreachable: the S3 server doesn't answer.
        """
        self._images.require_room()
        # Forks the workers, which must happen before threads are started.
        batches = iter(self._loader)
        try:
            with Fetcher(self._images, self._rows) as fetcher:
                for number, batch in enumerate(batches):
                    if isinstance(batch, Refusal):
                        raise batch
                    fetcher.read(number)
                    yield batch
        finally:
            # Ends the workers now rather than when the last reference to an exception is dropped.
            del batches


def training_batches(
    subset: ClassSubset,
    batches: np.ndarray,
    recipe: Recipe,
    epoch: int,
    rank: int,
    world_size: int,
    workers: int,
) -> Batches:
    """Return this rank's augmented share of global batches (steps, batch_size)."""
    # An image that occurs twice in a batch (of a class with fewer than K) is augmented in two ways.
    items = batches + _times_before(batches) * len(subset.rows)
    shares = [rank_share(batch, rank, world_size) for batch in items]
    # Each rank names the shards of all ranks: those of a node share a cache and divide the work.
    rows = list(subset.rows[batches])
    return Batches(_Training(subset, recipe, epoch), subset.images, shares, rows, workers)


def evaluation_batches(subset: ClassSubset, members: np.ndarray, recipe: Recipe, workers: int) -> Batches:
    """Return batches of the given members of a subset in order, not augmented."""
    # Images per batch; nothing is stored for a backward pass, so this fits wherever training fits.
    size = 128
    shares = [members[start : start + size] for start in range(0, len(members), size)]
    rows = [subset.rows[share] for share in shares]
    return Batches(_Evaluation(subset, recipe), subset.images, shares, rows, workers)
