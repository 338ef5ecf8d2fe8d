"""The cores of this machine, and a map over shards that uses them (a `Runner` for packing)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from dfml.child_process import end_with
from dfml.errors import RunFailed

A = TypeVar("A")
B = TypeVar("B")


def available() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def map_in_processes(work: Callable[[A], B], items: Sequence[A], processes: int) -> Generator[tuple[A, B], None, None]:
    """Do `work` for each item in `processes` processes; yield each item with its result as it ends.

    After an exception or Ctrl-C items in progress are finished, and no others are started.

    Raises:
        RunFailed: one of the processes was killed.
    """
    if not items:
        return
    with ProcessPoolExecutor(min(processes, len(items)), initializer=end_with, initargs=(os.getpid(),)) as pool:
        # A terminal sends Ctrl-C to all processes, but only this one may respond to it. The first
        # `submit` starts the others, which inherit this one's mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            item_of = {pool.submit(work, item): item for item in items}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            for future in as_completed(item_of):
                yield item_of[future], future.result()
        except BrokenProcessPool as error:
            raise RunFailed(
                "one of the processes was killed, perhaps because memory ran out; run the same command again with "
                "fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
