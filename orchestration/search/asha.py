"""ASHA as the scheduler, which knows the rungs that earlier sessions of a sweep filled."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from dfml.task import BEST_SCORE
from orchestration.records import TrialRecord

# Compared on recorded curves (benchmarks/search.py). An epoch after warm-up the later winners are often not in the better half yet, so
# that half of the searches never let one end; two epochs after it 2 % didn't. At a factor of 3 more are lost.
REDUCTION_FACTOR = 2  # a rung lets the better half of the trials seen there go on
TELLING = 2  # epochs after warm-up that tell trials apart; in a short training fewer must do


class ResumableASHA(ASHAScheduler):
    """ASHA that knows the rungs which earlier sessions of the sweep filled; Ray doesn't save them."""

    def __init__(
        self,
        records: Sequence[TrialRecord],
        epochs: int,
        warm_epochs: int,
        reduction_factor: float = REDUCTION_FACTOR,
        telling: int = TELLING,
    ) -> None:
        # max_t lies beyond the last epoch: a trial ends by itself there and isn't killed before its last checkpoint is in.
        super().__init__(
            time_attr="epoch",
            metric=BEST_SCORE,
            mode="max",
            grace_period=first_rung(epochs, warm_epochs, telling),
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


def first_rung(epochs: int, warm_epochs: int, telling: int = TELLING) -> int:
    """The epoch after which trials may be stopped: never inside warm-up, in which all look alike, and at most the last."""
    return warm_epochs + max(1, min(telling, (epochs - warm_epochs) // 2))
