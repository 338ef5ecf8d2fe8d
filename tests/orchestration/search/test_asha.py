"""ASHA's rungs rebuilt from records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from dfml.task import BEST_SCORE
from orchestration.job import config_of
from orchestration.search.asha import ResumableASHA, first_rung
from orchestration.sweep_folder.records import TrialRecord
from tests.plans import job_of


def curve(number: int, values: list[float]) -> TrialRecord:
    epochs = [{"epoch": epoch, BEST_SCORE: value} for epoch, value in enumerate(values, start=1)]
    return TrialRecord(number=number, parameters={}, recipe={}, state="finished", epochs=epochs)


def decisions(scheduler: ASHAScheduler, number: int, values: list[float]) -> list[str]:
    trial: Any = SimpleNamespace(trial_id=f"now-{number}", config=config_of(job_of(number)))
    scheduler.on_trial_add(None, trial)
    return [
        scheduler.on_trial_result(None, trial, {"epoch": epoch, BEST_SCORE: value})
        for epoch, value in enumerate(values, start=1)
    ]


def test_rungs_of_earlier_sessions_stop_a_poor_trial() -> None:
    records = [curve(0, [0.1, 0.5, 0.6, 0.7]), curve(1, [0.1, 0.4, 0.5, 0.6])]
    resumed = ResumableASHA(records, epochs=4, warm_epochs=1)
    assert TrialScheduler.STOP in decisions(resumed, 2, [0.1, 0.2])
    fresh = ResumableASHA([], epochs=4, warm_epochs=1)
    assert TrialScheduler.STOP not in decisions(fresh, 2, [0.1, 0.2])


def test_a_cut_trial_is_judged_by_its_own_earlier_epochs() -> None:
    """A trial resumed at epoch 3 must not enter the rung at 2 with its score of epoch 3."""
    cut = curve(1, [0.1, 0.3])
    cut.state = "running"
    records = [curve(0, [0.1, 0.4, 0.5, 0.6]), cut]
    resumed = ResumableASHA(records, epochs=4, warm_epochs=1)
    trial: Any = SimpleNamespace(trial_id="new", config=config_of(job_of(1)))
    resumed.on_trial_add(None, trial)
    resumed.on_trial_result(None, trial, {"epoch": 3, BEST_SCORE: 0.9})
    # 0.36 is in the better half of the rung with 0.4 and 0.3, but not with 0.4 and 0.9.
    assert TrialScheduler.STOP not in decisions(resumed, 2, [0.1, 0.36])


@pytest.mark.parametrize(("epochs", "warm"), [(4, 1), (60, 5), (2, 1), (10, 0)])
def test_no_rung_lies_in_the_warm_up(epochs: int, warm: int) -> None:
    assert warm < first_rung(epochs, warm) <= epochs
    scheduler = ResumableASHA([curve(n, [0.9] * epochs) for n in range(6)], epochs, warm)
    stopped = decisions(scheduler, 6, [0.0] * epochs)
    assert stopped.index(TrialScheduler.STOP) + 1 > warm
