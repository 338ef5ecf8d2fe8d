"""Background fetching of the next batches' shards, in the order in which they are needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from dfml.data.streaming.sharded_images import ShardedImages
from dfml.errors import InvalidInput, RunFailed

# Connections per rank; the ranks of a node divide the shards between them.
CONNECTIONS = 4


class Fetcher:
    """Fetch the next batches' shards in threads, so that decoding seldom waits. A context manager.

    Until the first batch is read the threads fetch only its shards, so that nothing delays it. If
    the cache holds only a part of the data set, they stay `images.window` shards ahead of the batch
    that is read.

    Args:
        images: the images to read batches from.
        batches: the rows of each batch, in order.
    """

    def __init__(self, images: ShardedImages, batches: Sequence[np.ndarray]) -> None:
        self._images = images
        self._shards: list[int] = []
        # The number of different shards up to and including each batch.
        self._reached: np.ndarray = np.empty(0, dtype=np.int64)
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
        # Transfers in progress aren't aborted: another process may be waiting for them.
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def read(self, batch: int) -> None:
        """Report the number, from 0, of the batch that is read now."""
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
            except (InvalidInput, RunFailed, OSError):
                # The process that reads the shard meets and reports the same error.
                return
