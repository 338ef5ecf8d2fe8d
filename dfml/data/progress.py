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
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(what)

    def __enter__(self) -> BytesDone:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._said >= SECONDS:
            self._said = now
            left = (now - self._began) * (total - done) / max(done, 1)
            print(
                f"{self._what}: {done / 2**20:,.0f} of {total / 2**20:,.0f} MB, {left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )
