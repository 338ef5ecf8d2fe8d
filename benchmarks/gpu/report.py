"""The report: each figure as a printed line, and all figures in one JSON file."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from benchmarks.gpu.bars import BARS

MISSED, SKIPPED = "MISSED", "SKIPPED"


class Report:
    """Print each figure as it is found, and keep it for the file.

    Args:
        file: where `save` writes.
        judged: whether bars of speed and memory count: they do on a GPU and in full size only.

    Attributes:
        check: the check that runs; its figures' names begin with its name.
        lines: all figures.
        raw: what belongs to the figures and is too long for a line, by title.
        done: seconds of each check that has ended.
    """

    def __init__(self, file: Path, judged: bool) -> None:
        self.file = file
        self.judged = judged
        self.check = ""
        self.lines: list[dict[str, object]] = []
        self.raw: dict[str, object] = {}
        self.done: dict[str, float] = {}

    def load(self) -> None:
        """Read what `save` wrote, so that this process adds to it."""
        content = json.loads(self.file.read_text(encoding="utf-8"))
        self.lines, self.raw, self.done = content["lines"], content["raw"], content["done"]

    def save(self) -> None:
        """Write the file; whoever reads it meanwhile finds the old content or the new."""
        content = {"lines": self.lines, "raw": self.raw, "done": self.done}
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
        partial.replace(self.file)

    def figure(
        self,
        name: str,
        value: float,
        unit: str = "",
        most: str | None = None,
        least: str | None = None,
        speed: bool = False,
    ) -> None:
        """Add a figure, with its verdict if it has a bar.

        Args:
            most, least: the name of the bar that the value must not exceed, or must reach.
            speed: whether the bar is one of speed or memory.
        """
        bar = most or least
        verdict = ""
        if bar is not None and (self.judged or not speed):
            # A NaN meets no bar.
            met = value <= BARS[bar] if most else value >= BARS[bar]
            verdict = "OK" if met else MISSED
        words = f"({'at most' if most else 'at least'} {BARS[bar]:g})" if bar else "(no bar)"
        self._add(
            name,
            f"{_shown(value)} {unit}".strip(),
            f"{words} {verdict}".strip(),
            value=value,
            unit=unit,
            verdict=verdict,
        )

    def note(self, name: str, text: object) -> None:
        """Add what isn't a number."""
        self._add(name, str(text), "(no bar)", value=text)

    def skip(self, name: str, why: str) -> None:
        """Add a figure that couldn't be measured."""
        self._add(name, "skipped", f"({why})", verdict=SKIPPED, why=why)

    def error(self, error: BaseException) -> None:
        """Add the exception that ended a check, with its traceback."""
        text = "".join(traceback.format_exception(error))
        message = " ".join(str(error).split())[:300]
        self._add("raised", type(error).__name__, f"({message}) {MISSED}", verdict=MISSED, traceback=text)
        print(text, file=sys.stderr, flush=True)

    def value(self, name: str) -> float | None:
        """Return an earlier figure by its full name, None if there is none."""
        for line in reversed(self.lines):
            value = line.get("value")
            if line["name"] == name and isinstance(value, int | float):
                return value
        return None

    def _add(self, name: str, figure: str, rest: str, **more: object) -> None:
        full = f"{self.check}.{name}"
        self.lines.append({"check": self.check, "name": full, **more})
        print(f"{full}: {figure} {rest}", flush=True)


def _shown(value: float) -> str:
    if value != value or value == 0:
        return f"{value}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
