"""The console output of a sweep: its progress, and the tables at its end."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dfml.task import SCORE
from orchestration.callback import SweepCallback
from orchestration.callbacks.live_table import LiveTable, duration
from orchestration.sweep_folder.records import TrialRecord, describe

log = logging.getLogger(__name__)


class Console(SweepCallback):
    """Print the progress and the results of a sweep.

    A terminal shows one live table, and above it a line per event. A pipe or CI gets a line per
    event, ends of epochs included.

    Args:
        trials: the number of trials in the sweep.
        scored_on: the images that trials are scored on, "validation" or "test".
    """

    def __init__(self, trials: int, scored_on: str = "validation") -> None:
        # No markup: a failure's reason or a folder's name may contain brackets.
        self._out = RichConsole(highlight=False, markup=False)
        self._trials = trials
        self._scored_on = scored_on
        self._started = time.monotonic()
        self._ended_here = 0
        self._ended_before = 0
        self.live_table = LiveTable(trials, scored_on)
        self._is_live = False

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the live table while trials run, if there is a terminal.

        Other output to the terminal appears above the table.
        """
        if not sys.stdout.isatty() or self._out.is_dumb_terminal or os.environ.get("CI"):
            yield
            return
        with Live(self.live_table, console=self._out, refresh_per_second=2, transient=True):
            self._is_live = True
            try:
                yield
            finally:
                self._is_live = False

    def print(self, text: str, style: str = "") -> None:
        line = Text.assemble((duration(time.monotonic() - self._started), "dim"), "  ", (text, style))
        self._out.print(line, soft_wrap=True)
        log.info(text)

    def resumed(self, records: list[TrialRecord]) -> None:
        self.live_table.resumed(records)
        self._ended_before = sum(record.state != "running" for record in records)
        cut = [str(record.number) for record in records if record.state == "running"]
        self.print(
            f"resuming: {self._ended_before} of {self._trials} trials have ended"
            + (f", trial {', '.join(cut)} resumes from its last checkpoint" if cut else "")
        )

    def trial_started(self, record: TrialRecord) -> None:
        self.live_table.follow(record)
        self.print(f"{record.title}  {describe(record.recipe)}", style="bold")

    def epoch_ended(self, record: TrialRecord, last: int) -> None:
        self.live_table.follow(record, last)
        if self._is_live:
            return
        metrics = record.epochs[-1]
        parts = [
            f"{record.title}  epoch {metrics['epoch']}/{last}",
            f"loss {metrics['loss']:.2f}",
        ]
        if SCORE in metrics:
            parts.append(f"{self._scored_on} {record.heading} {metrics[SCORE]:.3f} (best {record.best:.3f})")
        parts.append(f"{metrics['train_seconds']:.0f} s")
        if collapsed := int(metrics.get("routers_collapsed", 0)):
            parts.append(f"{collapsed} router(s) collapsed")
        self.print("  ".join(parts))

    def trial_restarted(self, record: TrialRecord, reason: str) -> None:
        self.print(f"{record.title}  resumes from its last checkpoint: {reason}", style="yellow")

    def workers_started(self, record: TrialRecord, workers: int, wanted: int) -> None:
        self.live_table.workers_started(record)
        if workers < wanted:
            self.print(
                f"{record.title}  runs with {workers} of {wanted} workers until there is room for more", style="yellow"
            )

    def trial_waits(self, record: TrialRecord, reason: str) -> None:
        self.live_table.waits(record)
        self.print(f"{record.title}  waits for its workers: {reason}", style="yellow")

    def trial_ended(self, record: TrialRecord) -> None:
        self.live_table.follow(record)
        self._ended_here += 1
        how = {
            "finished": "finished",
            "stopped": "stopped early by ASHA" if record.reason is None else f"stopped early: {record.reason}",
            "failed": f"failed: {record.reason}",
        }
        best = f", best {self._scored_on} {record.heading} {record.best:.3f}" if record.best is not None else ""
        left = self._trials - self._ended_before - self._ended_here
        seconds = (time.monotonic() - self._started) / self._ended_here * left
        more = f"; {left} more to run, about {duration(seconds)}" if record.kind == "trial" and left > 0 else ""
        self.print(f"{record.title}  {how[record.state]}{best}{more}", style="red" if record.state == "failed" else "")

    def table(self, title: str, columns: list[str], rows: list[list[Any]], marked: int | None = None) -> None:
        """Print a table with row `marked` in bold; columns of numbers are right-aligned."""
        self._out.print(f"\n{title}", style="bold", soft_wrap=True)
        table = Table()
        for i, column in enumerate(columns):
            justify: Any = "right" if all(_is_number(row[i]) for row in rows) else "left"
            table.add_column(column, justify=justify, overflow="fold")
        for i, row in enumerate(rows):
            table.add_row(*(Text(str(cell)) for cell in row), style="bold green" if i == marked else None)
        self._out.print(table)


def _is_number(cell: Any) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True
