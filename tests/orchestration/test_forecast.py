"""The plan that --dry-run prints: ASHA's rungs, and the maximal and expected epochs."""

from __future__ import annotations

import random

import pytest

from orchestration.cluster.resources import TrialResources
from orchestration.forecast import expected_epochs, forecast, rungs
from orchestration.search.asha import REDUCTION_FACTOR, ResumableASHA
from orchestration.sweep_folder.records import TrialRecord
from tests.orchestration.search.test_asha import decisions
from tests.orchestration.test_sweep_file import plan, space


@pytest.mark.parametrize(("epochs", "warm"), [(60, 5), (60, 1), (9, 1), (3, 1), (2, 1)])
def test_the_rungs_are_ashas(epochs: int, warm: int) -> None:
    """The worst trial stops at the first rung; one that falls back later stops at the next rung."""
    found = rungs(epochs, warm)
    scheduler = ResumableASHA([], epochs, warm)
    rng = random.Random(0)
    for number in range(40):
        decisions(scheduler, number, [rng.random()] * epochs)
    for reached in found:
        scores = [9.0 if epoch < reached else 0.0 for epoch in range(1, epochs + 1)]
        stopped = decisions(scheduler, 100 + reached, scores)
        assert "STOP" in stopped
        assert stopped.index("STOP") + 1 in found
    if not found:
        assert "STOP" not in decisions(scheduler, 99, [0.0] * epochs)[:-1]  # in the last epoch it ends anyway


def test_expected_epochs_are_those_of_trials_that_are_stopped_by_chance() -> None:
    epochs, steps = 60, rungs(60, 5)
    rng = random.Random(0)

    def length() -> int:
        for rung in steps:
            if rng.random() > 1 / REDUCTION_FACTOR:
                return rung
        return epochs

    mean = sum(length() for _ in range(100_000)) / 100_000
    assert expected_epochs(epochs, steps) == pytest.approx(mean, rel=0.02)


def test_the_forecast_tells_trials_resources_and_epochs() -> None:
    resources = TrialResources(4, cpus=8, gpus=1, concurrent=2, min_workers=2, reason="as --workers-per-trial says")
    sampled = {"num_sub_blocks": 2}
    records = [TrialRecord(number=i, parameters=sampled, recipe={}, state="finished") for i in range(4)]
    lines = "\n".join(forecast(plan(trials=10, reproductions=3, space=space(epochs=20)), resources, records))
    assert "6 trial(s) to run, 4 have ended: sampled" in lines
    assert (
        "each trial: 4 worker(s) (at least 2) of 8 CPU core(s) and a GPU; 2 at once (as --workers-per-trial says)"
    ) in lines
    assert "at most 120" in lines
    assert "with 3 seeds: up to 60 epochs more" in lines


@pytest.mark.parametrize(
    ("gpus", "said"),
    [(0, "2 CPU core(s); 1 at once (why)"), (0.5, "2 CPU core(s) and 0.5 of a GPU; 1 at once (why)")],
)
def test_the_forecast_tells_the_part_of_a_gpu(gpus: float, said: str) -> None:
    assert f"each trial: 1 worker(s) of {said}" in forecast(plan(), TrialResources(1, 2, gpus, 1, 1, "why"), [])
