"""Batches of images from rows of a data set, through torch's DataLoader."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

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

Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W) uint8, targets (B,) int64
Refusal = InvalidInput | RunFailed | Unreachable

# Images per batch at test, in all parts of a batch together. Nothing is stored for a backward pass,
# so this fits wherever training fits.
EVALUATION_BATCH = 128


class Loader:
    """Batches of the images of some subsets, in one pass at a time. A context manager.

    If there are workers, these processes decode and augment. They are forked at the first batch,
    serve all subsets, epoch after epoch, and end when the loader is closed. Asking for another pass
    ends the one before.

    Args:
        recipe: the recipe.
        subsets: the subsets; batches are of one of these very objects.
        workers: the number of processes; 0: this process decodes and augments.
    """

    def __init__(self, recipe: Recipe, subsets: Sequence[ClassSubset], workers: int = 0) -> None:
        self._seed = recipe.seed
        self._at_test = -(-EVALUATION_BATCH // recipe.gradient_accumulation)
        self._subsets = subsets
        self._requests = _Requests()
        self._pass: Generator[Batch] | None = None
        self._loader: DataLoader[Batch | Refusal] = DataLoader(
            _Decoding(recipe, subsets),
            sampler=self._requests,
            batch_size=None,
            num_workers=workers,
            # Forked workers share the indexes' memory.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=partial(_start_worker, os.getpid()),
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the loader can't be used afterwards."""
        self._end_pass()
        # The last reference.
        del self._loader

    def training(
        self, subset: ClassSubset, batches: np.ndarray, epoch: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Return this rank's augmented share of global batches (steps, batch_size).

        Augmentation depends only on the seed, the epoch, the image's row, and how often the image
        occurred earlier in the batch; not on workers, ranks or history.

        Raises:
            InvalidInput: while batches are read: the data set is damaged, or the cache has no room.
            Unreachable: while batches are read: the S3 server doesn't answer.
        """
        # An image that occurs twice in a batch (its class is small) is augmented in two ways.
        seeds = _draws(self._seed, epoch, subset.rows)[batches] + _times_before(batches)
        number = self._number(subset)
        requests = [
            _Request(number, *(rank_share(values, rank, world_size) for values in both))
            for both in zip(batches, seeds, strict=True)
        ]
        # Each rank names the shards of all ranks, because those of a node divide the fetching.
        return self._begin_pass(subset.images, requests, list(subset.rows[batches]))

    def evaluation(self, subset: ClassSubset, members: np.ndarray) -> Iterator[Batch]:
        """Return batches of the given members of a subset in order, not augmented.

        Raises: as `training`.
        """
        number, starts = self._number(subset), range(0, len(members), self._at_test)
        requests = [_Request(number, members[start : start + self._at_test], None) for start in starts]
        return self._begin_pass(subset.images, requests, [subset.rows[request.members] for request in requests])

    def _number(self, subset: ClassSubset) -> int:
        return [mine is subset for mine in self._subsets].index(True)

    def _begin_pass(
        self, images: ShardedImages, requests: Sequence[_Request], rows: Sequence[np.ndarray]
    ) -> Iterator[Batch]:
        self._end_pass()
        self._pass = self._batches(images, requests, rows)
        return self._pass

    def _end_pass(self) -> None:
        """Stop a pass of which not all batches were taken; it would keep the workers alive."""
        if self._pass is not None:
            self._pass.close()

    def _batches(
        self, images: ShardedImages, requests: Sequence[_Request], rows: Sequence[np.ndarray]
    ) -> Generator[Batch]:
        images.require_room()
        self._requests.current = requests
        # The first pass forks the workers, which must happen before threads are started.
        batches = iter(self._loader)
        try:
            with Fetcher(images, rows) as fetcher:
                for number, batch in enumerate(batches):
                    if isinstance(batch, Refusal):
                        raise batch
                    fetcher.read(number)
                    yield batch
        finally:
            # An exception may keep this frame alive, but the workers end with the loader.
            del batches


class _Request(NamedTuple):
    """A batch to make, as it is sent to a worker.

    Attributes:
        subset: the number of the subset among the loader's.
        members: the members of the subset (B,).
        seeds: the seed of each image's augmentation (B,); None: the images aren't augmented.
    """

    subset: int
    members: np.ndarray
    seeds: np.ndarray | None


class _Requests(Sampler[_Request]):
    """The requests of the current pass; torch's DataLoader takes no other sampler later on."""

    def __init__(self) -> None:
        self.current: Sequence[_Request] = ()

    def __len__(self) -> int:
        return len(self.current)

    def __iter__(self) -> Iterator[_Request]:
        return iter(self.current)


class _Decoding(Dataset[Batch | Refusal]):
    """Decoded and augmented batches, or the error that the first bad image raised.

    The error is returned as a value: raised in a worker it would lose its one-line message.
    """

    def __init__(self, recipe: Recipe, subsets: Sequence[ClassSubset]) -> None:
        self._subsets = subsets
        self._training, self._evaluation = training_transform(recipe), evaluation_transform(recipe)

    def __getitem__(self, request: _Request) -> Batch | Refusal:
        subset = self._subsets[request.subset]
        rows = subset.rows[request.members].tolist()
        try:
            if request.seeds is None:
                images = [self._evaluation(subset.images.image(row)) for row in rows]
            else:
                # Without workers, others draw from the generator that is seeded here.
                with torch.random.fork_rng(devices=[]):
                    seeds = request.seeds.tolist()
                    images = [self._augmented(subset, row, seed) for row, seed in zip(rows, seeds, strict=True)]
        except (InvalidInput, RunFailed, Unreachable) as error:
            return error
        # In a worker, collating writes to memory that is shared with the main process.
        return default_collate(images), torch.from_numpy(subset.targets[request.members])

    def _augmented(self, subset: ClassSubset, row: int, seed: int) -> Tensor:
        # torch.manual_seed also checks for GPUs, which takes 0.1 ms.
        torch.default_generator.manual_seed(seed)
        augmented: Tensor = self._training(subset.images.image(row))
        return augmented


def _start_worker(parent: int, number: int) -> None:
    end_with(parent)


def _as_it_is(batch: Any) -> Any:
    return batch


def _times_before(batches: np.ndarray) -> np.ndarray:
    """Return how often each index occurs earlier in its batch, uint64 (steps, batch_size)."""
    order = np.argsort(batches, axis=1, kind="stable")
    in_order = np.take_along_axis(batches, order, axis=1)
    position = np.arange(batches.shape[1])
    begins = np.concatenate([np.ones((len(batches), 1), dtype=bool), in_order[:, 1:] != in_order[:, :-1]], axis=1)
    times = np.empty(batches.shape, dtype=np.uint64)
    np.put_along_axis(times, order, position - np.maximum.accumulate(begins * position, axis=1), axis=1)
    return times


def _draws(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """Return the seed of each row's augmentation, uint64.

    A row's seed doesn't depend on which other rows a subset has.
    """
    draws = np.random.default_rng([seed, epoch]).integers(2**63, size=rows.max(initial=-1) + 1)
    return draws[rows].astype(np.uint64)
