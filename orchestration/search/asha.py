"""ASHA as the scheduler, which knows the rungs that earlier sessions of a sweep filled."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from dfml.task import BEST_SCORE
from orchestration.records import TrialRecord

# Compared on recorded curves (benchmarks/search.py). At the first rung, an epoch after warm-up, the later winners aren't in the best
# third yet, and 3 or 4 mostly lost them.
REDUCTION_FACTOR = 2  # a rung lets the better half of the trials seen there go on


class ResumableASHA(ASHAScheduler):
    """ASHA that knows the rungs which earlier sessions of the sweep filled; Ray doesn't save them."""

    def __init__(
        self,
        records: Sequence[TrialRecord],
        epochs: int,
        warm_epochs: int,
        reduction_factor: float = REDUCTION_FACTOR,
    ) -> None:
        # The first rung comes an epoch after warm-up, in which all trials look alike. max_t lies beyond the last epoch:
        # a trial ends by itself there and isn't killed before its last checkpoint is in.
        super().__init__(
            time_attr="epoch",
            metric=BEST_SCORE,
            mode="max",
            grace_period=first_rung(epochs, warm_epochs),
            reduction_factor=reduction_factor,
            max_t=epochs + 1,
        )
        self._cut = {record.number: record.epochs for record in records if record.state == "running"}
        for record in records:
            if record.state != "running":
                self._replay(SimpleNamespace(trial_id=f"earlier-{record.number}"), record.epochs)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for figures in self._cut.get(trial.config.get("number"), []):
            super().on_trial_result(tune_controller, trial, figures)

    def _replay(self, trial: Any, epochs: list[dict[str, Any]]) -> None:
        super().on_trial_add(None, trial)
        for figures in epochs:
            super().on_trial_result(None, trial, figures)


def first_rung(epochs: int, warm_epochs: int) -> int:
    """The epoch after which trials may be stopped: never inside warm-up, and at most the last."""
    return min(epochs, warm_epochs + 1)
