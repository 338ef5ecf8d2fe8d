"""What a sweep prints: where things are, how its trials go, and the tables at the end."""

from __future__ import annotations

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
from orchestration.live_table import LiveTable, duration
from orchestration.records import TrialRecord, describe


class Console:
    """Progress and results: on a terminal one table that is kept up to date, with a line above it for what happens; elsewhere, and in CI,
    one line an event, an epoch's end included.

    Args:
        trials: of the sweep.
        scored_on: images: "validation", or "test" where the protocol is the paper's.
    """

    def __init__(self, trials: int, scored_on: str = "validation") -> None:
        # No markup: a failure's reason or a folder's name may hold brackets.
        self._out = RichConsole(highlight=False, markup=False)
        self._trials = trials
        self._scored_on = scored_on
        self._started = time.monotonic()
        self._ended_here = 0
        self._ended_before = 0
        self._table = LiveTable(trials, scored_on)
        self._is_live = False

    @contextmanager
    def live(self) -> Iterator[None]:
        """While trials run: show the table, where there is a terminal. What others write to it meanwhile comes above the table."""
        if not sys.stdout.isatty() or self._out.is_dumb_terminal or os.environ.get("CI"):
            yield
            return
        with Live(self._table, console=self._out, refresh_per_second=2, transient=True):
            self._is_live = True
            try:
                yield
            finally:
                self._is_live = False

    def say(self, text: str, style: str = "") -> None:
        line = Text.assemble((duration(time.monotonic() - self._started), "dim"), "  ", (text, style))
        self._out.print(line, soft_wrap=True)

    def resumed(self, records: list[TrialRecord]) -> None:
        self._table.resumed(records)
        self._ended_before = sum(record.state != "running" for record in records)
        cut = [str(record.number) for record in records if record.state == "running"]
        self.say(
            f"resuming: {self._ended_before} of {self._trials} trials have ended"
            + (f", trial {', '.join(cut)} goes on from its last checkpoint" if cut else "")
        )

    def started(self, record: TrialRecord) -> None:
        self._table.follow(record)
        self.say(f"{_title(record)}  {describe(record.training_recipe())}", style="bold")

    def epoch(self, record: TrialRecord, last: int) -> None:
        self._table.follow(record, last)
        if self._is_live:
            return
        figures = record.epochs[-1]
        parts = [
            f"{_title(record)}  epoch {figures['epoch']}/{last}",
            f"loss {figures['loss']:.2f}",
        ]
        if SCORE in figures:
            parts.append(f"{self._scored_on} {record.heading} {figures[SCORE]:.3f} (best {record.best:.3f})")
        parts.append(f"{figures['train_seconds']:.0f} s")
        if collapsed := int(figures.get("routers_collapsed", 0)):
            parts.append(f"{collapsed} router(s) collapsed")
        self.say("  ".join(parts))

    def lost(self, record: TrialRecord, why: str) -> None:
        self.say(f"{_title(record)}  goes on from its last checkpoint: {why}", style="yellow")

    def fewer_workers(self, record: TrialRecord, now: int, wanted: int) -> None:
        self.say(f"{_title(record)}  runs with {now} of {wanted} workers until there is room for more", style="yellow")

    def placed(self, record: TrialRecord) -> None:
        """Its workers run; on a terminal the table says so."""
        self._table.placed(record.number)

    def waits(self, number: int, why: str) -> None:
        self._table.waits(number)
        self.say(f"{f'trial {number}' if number >= 0 else 'winner'}  waits for its workers: {why}", style="yellow")

    def ended(self, record: TrialRecord) -> None:
        self._table.follow(record)
        self._ended_here += 1
        how = {
            "finished": "finished",
            "stopped": "stopped early by ASHA" if record.reason is None else f"stopped early: {record.reason}",
            "failed": f"failed: {record.reason}",
        }
        best = f", best {self._scored_on} {record.heading} {record.best:.3f}" if record.best is not None else ""
        left = self._trials - self._ended_before - self._ended_here
        seconds = (time.monotonic() - self._started) / self._ended_here * left
        more = f"; {left} more to run, about {duration(seconds)}" if record.number >= 0 and left > 0 else ""
        self.say(f"{_title(record)}  {how[record.state]}{best}{more}", style="red" if record.state == "failed" else "")

    def table(self, title: str, columns: list[str], rows: list[list[Any]], marked: int | None = None) -> None:
        """Print a table; row `marked` in bold. Columns of numbers are aligned on the right."""
        self._out.print(f"\n{title}", style="bold", soft_wrap=True)
        table = Table()
        for i, column in enumerate(columns):
            justify: Any = "right" if all(_is_number(row[i]) for row in rows) else "left"
            table.add_column(column, justify=justify, overflow="fold")
        for i, row in enumerate(rows):
            table.add_row(*(Text(str(cell)) for cell in row), style="bold green" if i == marked else None)
        self._out.print(table)


def _title(record: TrialRecord) -> str:
    if record.number >= 0:
        return f"trial {record.number}"
    return f"winner, seed {record.recipe['seed']}" if record.number < -1 else "winner"


def _is_number(cell: Any) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True
