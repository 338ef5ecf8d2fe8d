"""What a search has cost, wall-clock time and epochs over all sessions of a sweep, and its end when that is all of its budget."""

from __future__ import annotations

import json
import time
from typing import Any

from ray.tune import Stopper

from dfml import storage
from orchestration import layout
from orchestration.records import TrialRecord
from orchestration.reports import FIGURES, RESUMED
from orchestration.search.budget import Budget

OVER_BUDGET = "the budget is spent"


class Clock:
    """How long a sweep's search has run, its earlier sessions included; kept in the sweep's folder.

    Args:
        sweep: its folder or URI.
    """

    def __init__(self, sweep: str) -> None:
        self._place = storage.join(sweep, layout.ELAPSED)
        self._before = float(json.loads(storage.read(self._place))["seconds"]) if storage.exists(self._place) else 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        storage.write(self._place, json.dumps({"seconds": round(self.seconds, 1)}).encode())


class Spent(Stopper):
    """Ends the search when the budget is spent: no trial starts any more, and those that run end after their epoch.

    Args:
        budget: None for none.
        clock: of the sweep.
        records: of all trials; they grow.
    """

    def __init__(self, budget: Budget | None, clock: Clock, records: list[TrialRecord]) -> None:
        self.clock = clock
        self._budget = budget
        self._records = records

    def __reduce__(self) -> Any:
        return _Never, ()  # Tune stores its stoppers to restore them; we don't

    def reached(self, further: int = 0) -> bool:
        """Whether the budget is spent, with so many epochs that the records don't have yet."""
        if self._budget is None:
            return False
        if self._budget.hours is not None:
            return self.clock.seconds >= self._budget.hours * 3600
        return sum(len(record.epochs) for record in self._records) + further >= (self._budget.epochs or 0)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends with this result, which Tune shows here before the records have it."""
        if result.get("done") or result.get("epoch", 0) >= result["config"]["job"]["epochs"]:
            return False  # it ends by itself, and isn't killed before its last checkpoint is in
        return self.reached(further=int(FIGURES in result and not result[RESUMED]))

    def stop_all(self) -> bool:
        """Never: what Tune stops in this way it neither tells its callbacks nor its searcher. The searcher ends the search."""
        return False


class _Never(Stopper):
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return False


def end_cut(records: list[TrialRecord]) -> list[TrialRecord]:
    """Of a search that has ended, the trials that an earlier session cut and for which nothing was left of the budget; now stopped."""
    cut = [record for record in records if record.state == "running"]
    for record in cut:
        record.state, record.reason, record.ended = "stopped", OVER_BUDGET, record.seen or time.time()
    return cut
