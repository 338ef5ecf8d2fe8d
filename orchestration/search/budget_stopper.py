"""The stopper that ends a search when its budget is spent, over all sessions of a sweep."""

from __future__ import annotations

import json
import time
from typing import Any

from ray.tune import Stopper

from dfml import storage
from orchestration.job import job_in
from orchestration.messages import EpochReport, message_in
from orchestration.search.budget import Budget
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import TrialRecord

OVER_BUDGET = "the budget is spent"


class ElapsedTime:
    """Measure how long a sweep's search has run, over all sessions; stored in the sweep's folder.

    Args:
        sweep: the sweep's folder or URI.
    """

    def __init__(self, sweep: str) -> None:
        self._uri = storage.join(sweep, layout.ELAPSED)
        self._before = float(json.loads(storage.read(self._uri))["seconds"]) if storage.exists(self._uri) else 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        """Write the seconds so far to the sweep's folder."""
        storage.write(self._uri, json.dumps({"seconds": round(self.seconds, 1)}).encode())


class BudgetStopper(Stopper):
    """End the search when the budget is spent; running trials end after their epoch.

    Args:
        budget: the limit; None: no limit.
        elapsed: the time that the search has run.
        records: records of all trials; the list grows.
    """

    def __init__(self, budget: Budget | None, elapsed: ElapsedTime, records: list[TrialRecord]) -> None:
        self.elapsed = elapsed
        self._budget = budget
        self._records = records

    def __reduce__(self) -> Any:
        # Tune pickles its stoppers to restore them; this project never restores a Tune run.
        return _Never, ()

    def reached(self, further: int = 0) -> bool:
        """Return whether the budget is spent, given `further` epochs beyond the records."""
        if self._budget is None:
            return False
        if self._budget.hours is not None:
            return self.elapsed.seconds >= self._budget.hours * 3600
        return sum(len(record.epochs) for record in self._records) + further >= (self._budget.epochs or 0)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a trial ends with this result, which isn't in the records yet."""
        if result.get("done") or result.get("epoch", 0) >= job_in(result["config"]).epochs:
            # The trial ends by itself, once its last checkpoint is saved.
            return False
        message = message_in(result)
        return self.reached(further=int(isinstance(message, EpochReport) and not message.resumed))

    def stop_all(self) -> bool:
        """Return False: the searcher ends the search.

        Tune would report the trials that it stops here neither to callbacks nor to the searcher.
        """
        return False


class _Never(Stopper):
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return False


def stop_interrupted(records: list[TrialRecord]) -> list[TrialRecord]:
    """Mark trials as stopped that the spent budget kept from resuming, and return them.

    Args:
        records: records of a search that has ended.
    """
    interrupted = [record for record in records if record.state == "running"]
    for record in interrupted:
        record.state, record.reason, record.ended = "stopped", OVER_BUDGET, record.seen or time.time()
    return interrupted
