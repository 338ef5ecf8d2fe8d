"""The table that a terminal shows while a sweep runs: trials, how far each is, and what it has reached."""

from __future__ import annotations

import time

from rich import box
from rich.table import Table
from rich.text import Text

from orchestration.records import TrialRecord, describe

# The columns, the most telling first, and the least width of each; the recipe is shortened first. "collapsed": routers that send nearly all tokens one way.
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
ENDED_SHOWN = 5  # of the trials that have ended, those with the best scores; running ones are shown all


class LiveTable:
    """Drawn anew by rich several times a second; what it shows is what it was told last.

    Args:
        trials: of the sweep.
        scored_on: images: "validation" or "test".
    """

    def __init__(self, trials: int, scored_on: str) -> None:
        self._trials = trials
        self._scored_on = scored_on
        self._records: dict[int, TrialRecord] = {}
        self._last: dict[int, int] = {}  # each trial's last epoch
        self._waits: set[int] = set()
        self._placed: set[int] = set()  # whose workers have run in this session
        self._began = time.monotonic()
        self._ended_before = 0

    def resumed(self, records: list[TrialRecord]) -> None:
        self._records |= {record.number: record for record in records if record.state != "running"}
        self._ended_before = len(self._records)

    def follow(self, record: TrialRecord, last: int | None = None) -> None:
        """Show the record, which grows, from now on; `last` is its last epoch where that is known."""
        self._records[record.number] = record
        if last is not None:
            self._last[record.number] = last

    def waits(self, number: int) -> None:
        self._waits.add(number)

    def placed(self, number: int) -> None:
        """Its workers run."""
        self._placed.add(number)
        self._waits.discard(number)

    def __rich__(self) -> Table:
        found = [self._records[number] for number in sorted(self._records)]
        best = max((record.best or 0.0 for record in found if record.number >= 0), default=0.0)
        running = [record for record in found if record.state == "running"]
        ended = [record for record in found if record.state != "running" and record.number >= 0]
        shown = sorted(ended, key=lambda record: record.best or 0.0, reverse=True)[:ENDED_SHOWN]
        # Above the rows: where there are more of them than the terminal has lines, the last are cut off.
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
                min_width=width,  # of a narrow terminal whole columns fall off, never a number's last digits
                overflow="ellipsis",
                ratio=None if width else 1,  # the recipe has what is left, and is shortened to it
            )
        for record in [*running, *shown]:
            leads = record.number >= 0 and record.best is not None and record.best >= best
            style = "bold green" if leads else "" if record.state == "running" else "dim"
            table.add_row(*(Text(cell) for cell in self._cells(record)), style=style)
        return table

    def _cells(self, record: TrialRecord) -> list[str]:
        epochs = record.epochs
        figures = epochs[-1] if epochs else {}
        last = self._last.get(record.number)
        state = record.state if record.state != "running" or record.number in self._placed else "starts"
        return [
            str(record.number) if record.number >= 0 else record.folder,
            "waits" if record.state == "running" and record.number in self._waits else state,
            f"{figures.get('epoch', 0):.0f}" + (f"/{last}" if last else ""),
            f"{figures['score']:.3f}" if "score" in figures else "",
            "" if record.best is None else f"{record.best:.3f}",
            self._left(record),
            f"{figures['loss']:.2f}" if "loss" in figures else "",
            f"{figures.get('routers_collapsed', 0):.0f}",
            describe(record.training_recipe()),
        ]

    def _left(self, record: TrialRecord) -> str:
        """The time to a trial's last epoch, if it isn't stopped before."""
        last = self._last.get(record.number)
        if record.state != "running" or not record.epochs or last is None:
            return ""
        seconds = [figures["train_seconds"] + figures["validation_seconds"] for figures in record.epochs]
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
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
