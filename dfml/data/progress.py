"""Progress of work over a data set: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

SECONDS = 15.0  # between two lines


class BytesDone:
    """Shows on standard error how many bytes are done; called with those done and those in all. A context manager.

    Args:
        what: names the work: "packing".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._said, self._done = time.monotonic(), 0  # when a line was last printed, and what was done then
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(what)

    def __enter__(self) -> BytesDone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.start()  # not sooner: its thread must not be forked into the processes that do the work
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._said >= SECONDS:
            # By the pace of late: what an earlier run has done is passed over in no time.
            left = (now - self._said) * (total - done) / max(done - self._done, 1)
            self._said, self._done = now, done
            print(
                f"{self._what}: {done / 2**20:,.0f} of {total / 2**20:,.0f} MB, {left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )
