"""The live table of a sweep on a terminal: the progress and the scores of its trials."""

from __future__ import annotations

import time
from datetime import timedelta

from rich import box
from rich.table import Table
from rich.text import Text

from orchestration.sweep_folder.records import TrialRecord, describe

# The columns, the most important first, and their least widths; the recipe is shortened first.
# "collapsed": the number of routers that send nearly all tokens to one sub-block.
WIDTHS = {
    "trial": 5,
    "state": 8,
    "epoch": 7,
    "score": 5,
    "best": 5,
    "left": 7,
    "loss": 7,
    "collapsed": 9,
    "recipe": None,
}
# Ended trials shown, the ones with the best scores; all running trials are shown.
ENDED_SHOWN = 5


class LiveTable:
    """The latest state of all trials, which rich renders several times a second.

    Args:
        trials: the number of trials in the sweep.
        scored_on: the images that trials are scored on, "validation" or "test".
    """

    def __init__(self, trials: int, scored_on: str) -> None:
        self._trials = trials
        self._scored_on = scored_on
        # All are keyed by the record's folder.
        self._records: dict[str, TrialRecord] = {}
        self._last: dict[str, int] = {}  # each trial's last epoch
        self._waits: set[str] = set()
        self._placed: set[str] = set()  # trials whose workers have run in this session
        self._began = time.monotonic()
        self._ended_before = 0

    def resumed(self, records: list[TrialRecord]) -> None:
        self._records |= {record.folder: record for record in records if record.state != "running"}
        self._ended_before = len(self._records)

    def follow(self, record: TrialRecord, last: int | None = None) -> None:
        """Show the record and its changes from now on; `last` is its last epoch, if known."""
        self._records[record.folder] = record
        if last is not None:
            self._last[record.folder] = last

    def waits(self, record: TrialRecord) -> None:
        self._waits.add(record.folder)

    def workers_started(self, record: TrialRecord) -> None:
        self._placed.add(record.folder)
        self._waits.discard(record.folder)

    def __rich__(self) -> Table:
        found = sorted(self._records.values(), key=lambda record: (record.kind, record.number))
        best = max((record.best or 0.0 for record in found if record.kind == "trial"), default=0.0)
        running = [record for record in found if record.state == "running"]
        ended = [record for record in found if record.state != "running" and record.kind == "trial"]
        shown = sorted(ended, key=lambda record: record.best or 0.0, reverse=True)[:ENDED_SHOWN]
        # The title stays above the rows: a terminal with too few lines cuts off the last rows.
        table = Table(
            box=box.SIMPLE_HEAD,
            title=self._title(running, ended),
            title_justify="left",
            title_style="bold",
            padding=(0, 1, 0, 0),
            show_edge=False,
            expand=True,
        )
        heading = found[0].heading if found else "score"
        for name, width in WIDTHS.items():
            text = name in ("trial", "recipe", "state")
            table.add_column(
                name.replace("score", heading),
                justify="left" if text else "right",
                no_wrap=True,
                # A narrow terminal drops whole columns, never a number's last digits.
                min_width=width,
                overflow="ellipsis",
                # The recipe gets the remaining width, and is shortened to it.
                ratio=None if width else 1,
            )
        for record in [*running, *shown]:
            leads = record.kind == "trial" and record.best is not None and record.best >= best
            style = "bold green" if leads else "" if record.state == "running" else "dim"
            table.add_row(*(Text(cell) for cell in self._cells(record)), style=style)
        return table

    def _cells(self, record: TrialRecord) -> list[str]:
        epochs = record.epochs
        metrics = epochs[-1] if epochs else {}
        last = self._last.get(record.folder)
        state = record.state if record.state != "running" or record.folder in self._placed else "starts"
        return [
            record.label,
            "waits" if record.state == "running" and record.folder in self._waits else state,
            f"{metrics.get('epoch', 0):.0f}" + (f"/{last}" if last else ""),
            f"{metrics['score']:.3f}" if "score" in metrics else "",
            "" if record.best is None else f"{record.best:.3f}",
            self._left(record),
            f"{metrics['loss']:.2f}" if "loss" in metrics else "",
            f"{metrics.get('routers_collapsed', 0):.0f}",
            describe(record.recipe),
        ]

    def _left(self, record: TrialRecord) -> str:
        """Return the time to a trial's last epoch, if it isn't stopped early."""
        last = self._last.get(record.folder)
        if record.state != "running" or not record.epochs or last is None:
            return ""
        seconds = [metrics["train_seconds"] + metrics["validation_seconds"] for metrics in record.epochs]
        return duration((last - record.epochs[-1]["epoch"]) * sum(seconds) / len(seconds))

    def _title(self, running: list[TrialRecord], ended: list[TrialRecord]) -> str:
        passed = time.monotonic() - self._began
        states = [record.state for record in ended]
        kinds = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}
        counted = [f"{states.count(state)} {name}" for state, name in kinds.items() if state in states]
        parts = [
            f"{len(running)} running",
            f"{len(ended)} of {self._trials} ended" + (f" ({', '.join(counted)})" if counted else ""),
        ]
        parts.append(f"{duration(passed)} so far")
        here = len(ended) - self._ended_before
        if here > 0 and (left := self._trials - len(ended)) > 0:
            parts.append(f"about {duration(passed / here * left)} left")
        return "  ·  ".join(parts)


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds as text: 1:02:03."""
    return str(timedelta(seconds=round(seconds)))
