"""Fetches the shards of the coming batches in the background, in the order in which they are needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from dfml.data.dataset import ShardedImages
from dfml.errors import InvalidInput

CONNECTIONS = 4  # of each rank; ranks of a node divide the shards between them


class Fetcher:
    """While it is entered, threads fetch what the next batches read, so that decoding seldom waits.

    Until the first batch is read they fetch its shards alone, so that nothing slows it. Where the cache holds a part of the data set
    only, they keep `images.window` shards ahead of the batch that is read.

    Args:
        images: what batches are read from.
        batches: rows of each batch, in their order.
    """

    def __init__(self, images: ShardedImages, batches: Sequence[np.ndarray]) -> None:
        self._images = images
        self._shards: list[int] = []
        self._reached: np.ndarray = np.empty(0, dtype=np.int64)  # shards that are begun at each batch
        if images.cache is not None and batches:
            shards, first = np.unique(images.shard_numbers[np.concatenate(batches)], return_index=True)
            order = np.argsort(first)
            self._shards = shards[order].tolist()
            ends = np.cumsum([len(rows) for rows in batches])
            self._reached = np.searchsorted(first[order], ends)
        self._next = 0
        self._allowed = int(self._reached[0]) if self._shards else 0
        self._stopped = False
        self._changed = threading.Condition()

    def __enter__(self) -> Fetcher:
        for _ in range(min(CONNECTIONS, len(self._shards))):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A transfer that is under way is left to end by itself: another process may wait for it.
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def read(self, batch: int) -> None:
        """Say which batch is read now, counted from 0."""
        if not self._shards:
            return
        ahead = len(self._shards) if self._images.window is None else self._images.window
        with self._changed:
            self._allowed = int(self._reached[min(batch, len(self._reached) - 1)]) + ahead
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or self._next >= len(self._shards) or self._next < self._allowed
                )
                if self._stopped or self._next >= len(self._shards):
                    return
                shard = self._shards[self._next]
                self._next += 1
            try:
                self._images.fetch_ahead(shard)
            except (InvalidInput, OSError):
                return  # whoever needs the shard meets the same, and says so
