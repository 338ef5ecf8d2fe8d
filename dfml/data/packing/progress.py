"""Progress of work on a data set: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

REPORT_SECONDS = 15.0  # between two lines


class _Done:
    """Show progress on standard error; call it with the amount done and the total, within `with`.

    Args:
        what: the name of the work, such as "packing".
        columns: the columns between a terminal's bar and the time left.
    """

    def __init__(self, what: str, columns: tuple[ProgressColumn, ...]) -> None:
        self._what = what
        # The time of the last printed line, and the amount done at that time.
        self._said, self._done = time.monotonic(), 0
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            all_columns = (TextColumn(what), BarColumn(), *columns, TimeRemainingColumn())
            self._bar = Progress(*all_columns, console=Console(stderr=True))
            self._task = self._bar.add_task(what)

    def _in_words(self, done: int, total: int) -> str:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            # Not started earlier: its thread must not be forked into the worker processes.
            self._bar.start()
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._said >= REPORT_SECONDS:
            # Rate since the last line: work skipped on resume would inflate the average.
            left = (now - self._said) * (total - done) / max(done - self._done, 1)
            self._said, self._done = now, done
            print(f"{self._what}: {self._in_words(done, total)}, {left:,.0f} s left", file=sys.stderr, flush=True)


class BytesDone(_Done):
    """Progress in bytes."""

    def __init__(self, what: str) -> None:
        super().__init__(what, (DownloadColumn(), TransferSpeedColumn()))

    def _in_words(self, done: int, total: int) -> str:
        return f"{decimal(done)} of {decimal(total)}"


class ImagesDone(_Done):
    """Progress in images."""

    def __init__(self, what: str) -> None:
        super().__init__(what, (MofNCompleteColumn(),))

    def _in_words(self, done: int, total: int) -> str:
        return f"{done:,} of {total:,} images"
