"""What a search has cost, wall-clock time and epochs over all sessions of a sweep, and its end when that is all of its budget."""

from __future__ import annotations

import json
import time
from typing import Any

from ray.tune import Stopper

from dfml import storage
from orchestration import layout
from orchestration.budget import Budget
from orchestration.records import TrialRecord


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
    """Tells Tune to end the search when the budget is spent: no trial starts any more, and those that run end after their epoch.

    Args:
        budget: None for none.
        clock: of the sweep.
        records: of all trials; they grow.
    """

    def __init__(self, budget: Budget | None, clock: Clock, records: list[TrialRecord]) -> None:
        self._budget = budget
        self._clock = clock
        self._records = records

    def __reduce__(self) -> Any:
        return _Never, ()  # Tune stores its stoppers to restore them; we don't

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        if self._budget is None:
            return False
        if self._budget.hours is not None:
            return self._clock.seconds >= self._budget.hours * 3600
        return sum(len(record.epochs) for record in self._records) >= (self._budget.epochs or 0)


class _Never(Stopper):
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return False
