"""A `Runner` for packing, and for anything else that maps over shards: over the cores of this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def over_cores(work: Callable[[A], B], items: Sequence[A], processes: int) -> Iterator[tuple[A, B]]:
    """Do `work` for each item in `processes` processes; yields each item with its result as it ends.

    An exception ends all: what hasn't begun then never will.
    """
    with ProcessPoolExecutor(min(processes, len(items)), initializer=_end_with, initargs=(os.getpid(),)) as pool:
        item_of = {pool.submit(work, item): item for item in items}
        try:
            for future in as_completed(item_of):
                yield item_of[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with(parent: int) -> None:
    """End this process when its parent is killed: the pool's own would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
