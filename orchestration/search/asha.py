"""The scheduler: ASHA, with the rungs that earlier sessions of a sweep filled."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from dfml.task import BEST_SCORE
from orchestration.job import job_in
from orchestration.sweep_folder.records import TrialRecord

# Compared on recorded curves (benchmarks/search.py). One epoch after warm-up the later winners are
# often not in the better half yet: with the first rung there, half of the searches stopped all of
# them; two epochs after warm-up, 2 % did. A factor of 3 loses more winners.
REDUCTION_FACTOR = 2  # a rung lets the better half of the trials seen there continue
MIN_EPOCHS_AFTER_WARM_UP = 2  # epochs after warm-up that distinguish trials; a short training has fewer


class ResumableASHA(ASHAScheduler):
    """Run ASHA with the rungs of earlier sessions of the sweep; Ray doesn't save them."""

    def __init__(
        self,
        records: Sequence[TrialRecord],
        epochs: int,
        warm_epochs: int,
        reduction_factor: float = REDUCTION_FACTOR,
        telling: int = MIN_EPOCHS_AFTER_WARM_UP,
    ) -> None:
        # max_t is after the last epoch: a trial ends by itself, once its last checkpoint is saved.
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
        for metrics in self._cut.get(job_in(trial.config).number, []):
            super().on_trial_result(tune_controller, trial, metrics)

    def _replay(self, trial: Any, epochs: list[dict[str, Any]]) -> None:
        super().on_trial_add(None, trial)
        for metrics in epochs:
            super().on_trial_result(None, trial, metrics)


def first_rung(epochs: int, warm_epochs: int, telling: int = MIN_EPOCHS_AFTER_WARM_UP) -> int:
    """Return the first epoch after which trials may be stopped; at most the last epoch.

    It is after the warm-up, during which trials hardly differ.
    """
    return warm_epochs + max(1, min(telling, (epochs - warm_epochs) // 2))
