"""From rows to batches of tensors, through torch's DataLoader."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dfml.data.dataset import ShardedImages
from dfml.data.fetching import Fetcher
from dfml.data.order import rank_share
from dfml.data.split import ClassSubset
from dfml.data.transforms import Normalisation, evaluation_transform, training_transform
from dfml.errors import InvalidInput
from dfml.s3 import Unreachable

if TYPE_CHECKING:
    from dfml.recipe import Recipe

Item = tuple[Tensor, int]  # image (3, H, W) float32, target
Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W) float32, targets (B,) int64
Refusal = InvalidInput | Unreachable

PR_SET_PDEATHSIG = 1  # of Linux's prctl


class _EndsWith:
    """Has the kernel end a loader's process with the one that it works for: killed, that can't, and its GPU stays taken meanwhile."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, worker: int) -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:  # it ended before
            os._exit(1)


class _Training(Dataset[Item]):
    """Augmented images: index i, or i + n times the number of images for the image i that comes for the n-th time again.

    What augmentation draws depends on (seed, epoch, row, n) alone: not on workers, ranks or history.
    """

    def __init__(self, subset: ClassSubset, recipe: Recipe, normalisation: Normalisation, epoch: int) -> None:
        self.subset = subset
        self.transform = training_transform(recipe, normalisation)
        self.draws = _draws(recipe.seed, epoch, subset.rows)

    def __getitem__(self, index: int) -> Item:
        again, member = divmod(index, len(self.draws))
        # torch.manual_seed also asks for GPUs: 0.1 ms
        torch.default_generator.manual_seed(int(self.draws[member]) + again)
        image = self.subset.images.image(int(self.subset.rows[member]))
        return self.transform(image), int(self.subset.targets[member])


def _times_before(batches: np.ndarray) -> np.ndarray:
    """Return how often each index of each batch stands before it in that batch, (steps, batch_size)."""
    order = np.argsort(batches, axis=1, kind="stable")
    in_order = np.take_along_axis(batches, order, axis=1)
    position = np.arange(batches.shape[1])
    begins = np.concatenate([np.ones((len(batches), 1), dtype=bool), in_order[:, 1:] != in_order[:, :-1]], axis=1)
    times = np.empty_like(batches)
    np.put_along_axis(times, order, position - np.maximum.accumulate(begins * position, axis=1), axis=1)
    return times


def _draws(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """What each row's augmentation is drawn from, uint64 below 2^63: SplitMix64 (Steele et al., 2014), all rows at once, since making
    a numpy generator for each took 0.1 ms an image."""
    start = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    x = start + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)


class _Evaluation(Dataset[Item]):
    def __init__(self, subset: ClassSubset, recipe: Recipe, normalisation: Normalisation) -> None:
        self.subset = subset
        self.transform = evaluation_transform(recipe, normalisation)

    def __getitem__(self, index: int) -> Item:
        return self.transform(self.subset.images.image(int(self.subset.rows[index]))), int(self.subset.targets[index])


class _WholeBatches(Dataset[Batch | Refusal]):
    """A batch at a time, up to the first item that is refused.

    Hands a refusal over to the main process as a value: raised in a loader's process it would lose its one sentence.
    """

    def __init__(self, items: Dataset[Item]) -> None:
        self.items = items

    def __getitems__(self, indices: list[int]) -> Batch | Refusal:
        try:
            with torch.random.fork_rng(devices=[]):  # items seed it; in this process others draw from it too
                images, targets = default_collate([self.items[index] for index in indices])
        except (InvalidInput, Unreachable) as error:
            return error
        return images, targets


class _Lists(Sampler[list[int]]):
    """Batches of indices as the loader wants them, made one at a time: an epoch of ImageNet's would take 50 MB at once."""

    def __init__(self, indices: Sequence[np.ndarray]) -> None:
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.indices:
            yield index.tolist()


def _as_it_is(batch: Any) -> Any:
    return batch


class Batches:
    """Batches of tensors in their order; the shards that they need are fetched ahead of them.

    Args:
        items: gives the image of an index.
        images: where rows are read from.
        indices: of each batch, for `items`.
        rows: of each batch, in `images`.
        workers: processes that decode and augment; 0: this one.
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
            # Forked, whatever the default: they share the index's memory, and as children of this process end with it.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=_EndsWith(os.getpid()) if workers and sys.platform == "linux" else None,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        """Raises InvalidInput: the data set is damaged, or the cache has no room; Unreachable: the server is away."""
        self._images.require_room()
        batches = iter(self._loader)  # starts the processes, before there are threads
        try:
            with Fetcher(self._images, self._rows) as fetcher:
                for number, batch in enumerate(batches):
                    if isinstance(batch, Refusal):
                        raise batch
                    fetcher.read(number)
                    yield batch
        finally:
            del batches  # ends the processes now, not when the last reference to an exception goes


def training_batches(
    subset: ClassSubset,
    batches: np.ndarray,
    recipe: Recipe,
    normalisation: Normalisation,
    epoch: int,
    rank: int,
    world_size: int,
    workers: int,
) -> Batches:
    """This rank's share of global batches (steps, batch_size), augmented: images (B, 3, H, W), targets (B,) int64."""
    # An image that comes twice in a batch, of a class with fewer than K images, is augmented in two ways.
    items = batches + _times_before(batches) * len(subset.rows)
    shares = [rank_share(batch, rank, world_size) for batch in items]
    # All ranks of a node fetch for all of them: what one needs first, another has on its way.
    rows = list(subset.rows[batches])
    return Batches(_Training(subset, recipe, normalisation, epoch), subset.images, shares, rows, workers)


def evaluation_batches(
    subset: ClassSubset, members: np.ndarray, recipe: Recipe, normalisation: Normalisation, workers: int
) -> Batches:
    """The given members of a subset in order, not augmented."""
    size = 128  # images; nothing is kept for a backward pass, so this fits wherever training does
    shares = [members[start : start + size] for start in range(0, len(members), size)]
    rows = [subset.rows[share] for share in shares]
    return Batches(_Evaluation(subset, recipe, normalisation), subset.images, shares, rows, workers)
