"""Optuna's study and ASHA's rungs, rebuilt from records: as if the sweep had never stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from dfml.task import BEST_SCORE
from orchestration.records import TrialRecord
from orchestration.search import ResumableASHA, first_rung, searcher
from orchestration.search_space import SearchSpace, build_space

TRIALS = 16  # six more than TPE leaves to chance
SPACE: SearchSpace = build_space(
    {
        "search": {
            "routers": {"choice": [2, 3]},
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "schedule": {"choice": {"step": {"gamma": {"low": 0.2, "high": 0.9}}, "cosine": {}}},
        },
        "first": [{"routers": 3, "lr": 1e-3}],
    },
    "test",
)


def value_of(config: dict[str, Any]) -> float:
    """A known optimum, so that TPE has something to model."""
    return -abs(config["recipe"]["lr"] - 2e-3) - 0.01 * config["recipe"]["routers"]


def play(records: list[TrialRecord], until: int, seed: int = 3) -> list[TrialRecord]:
    """Ask for trials one after another and tell their values, as Tune does, until there are `until` records."""
    found = [record.model_copy(deep=True) for record in records]
    search = searcher(SPACE, seed, {"sweep": "x"}, found)
    while len([r for r in found if r.state != "running"]) < until:
        config = search.suggest(trial_id := f"id-{len(found)}-{search}")
        assert config is not None
        value = value_of(config)
        search.on_trial_complete(trial_id, {BEST_SCORE: value, "training_iteration": 1})
        known = [record for record in found if record.number == config["number"]]
        record = known[0] if known else TrialRecord(number=config["number"], parameters={}, recipe=config["recipe"])
        record.parameters, record.state = config["parameters"], "finished"
        record.epochs = [{"epoch": 1, BEST_SCORE: value}]
        if not known:
            found.append(record)
    return found


def test_the_first_trial_is_the_files_first() -> None:
    recipe = play([], 1)[0].recipe
    assert (recipe["routers"], recipe["lr"]) == (3, 1e-3)


def test_a_seed_decides_all_configurations() -> None:
    a, b, other = play([], TRIALS), play([], TRIALS), play([], TRIALS, seed=4)
    assert [r.parameters for r in a] == [r.parameters for r in b]
    assert [r.parameters for r in a[1:]] != [r.parameters for r in other[1:]]
    assert len({str(r.parameters) for r in a}) == TRIALS


@pytest.mark.parametrize("stop", [1, 9, 13])
def test_an_interrupted_search_goes_on_as_if_it_had_not_stopped(stop: int) -> None:
    """Also past the random start-up, where TPE models what came before."""
    undisturbed = play([], TRIALS)
    cut = play([], stop)
    assert [r.parameters for r in play(cut, TRIALS)] == [r.parameters for r in undisturbed]


def test_a_trial_that_was_cut_comes_first_with_its_number_and_configuration() -> None:
    records = play([], 4)
    records[2].state = "running"  # two ran at once: 3 had ended, 2 was cut
    search = searcher(SPACE, 3, {}, records)
    config = search.suggest("a")
    assert config is not None
    assert (config["number"], config["parameters"]) == (2, records[2].parameters)
    following = search.suggest("b")
    assert following is not None
    assert following["number"] == 4


def test_failed_trials_are_told_as_failed() -> None:
    records = play([], 3)
    records[1].state, records[1].epochs = "failed", []
    search = searcher(SPACE, 3, {}, records)
    config = search.suggest("a")
    assert config is not None
    assert config["number"] == 3


def curve(number: int, values: list[float]) -> TrialRecord:
    epochs = [{"epoch": epoch, BEST_SCORE: value} for epoch, value in enumerate(values, start=1)]
    return TrialRecord(number=number, parameters={}, recipe={}, state="finished", epochs=epochs)


def decisions(scheduler: ASHAScheduler, number: int, values: list[float]) -> list[str]:
    trial: Any = SimpleNamespace(trial_id=f"now-{number}", config={"number": number})
    scheduler.on_trial_add(None, trial)
    return [
        scheduler.on_trial_result(None, trial, {"epoch": epoch, BEST_SCORE: value})
        for epoch, value in enumerate(values, start=1)
    ]


def test_rungs_of_earlier_sessions_stop_a_poor_trial() -> None:
    records = [curve(0, [0.1, 0.5, 0.6, 0.7]), curve(1, [0.1, 0.4, 0.5, 0.6])]
    resumed = ResumableASHA(records, epochs=8, warm_epochs=1)
    assert TrialScheduler.STOP in decisions(resumed, 2, [0.1, 0.2])
    fresh = ResumableASHA([], epochs=8, warm_epochs=1)
    assert TrialScheduler.STOP not in decisions(fresh, 2, [0.1, 0.2])


def test_a_cut_trial_is_judged_by_its_own_earlier_epochs() -> None:
    """Resumed at epoch 3, it must not be entered in the rung at 2 with what it reached at 3."""
    cut = curve(1, [0.1, 0.3])
    cut.state = "running"
    records = [curve(0, [0.1, 0.4, 0.5, 0.6]), cut]
    resumed = ResumableASHA(records, epochs=8, warm_epochs=1)
    trial: Any = SimpleNamespace(trial_id="new", config={"number": 1})
    resumed.on_trial_add(None, trial)
    resumed.on_trial_result(None, trial, {"epoch": 3, BEST_SCORE: 0.9})
    # With 0.4 and 0.3 in the rung, 0.36 is in the better half; with 0.4 and 0.9 it wouldn't be.
    assert TrialScheduler.STOP not in decisions(resumed, 2, [0.1, 0.36])


@pytest.mark.parametrize(("epochs", "warm"), [(4, 1), (60, 5), (2, 1), (10, 0)])
def test_no_rung_lies_in_the_warm_up(epochs: int, warm: int) -> None:
    assert warm < first_rung(epochs, warm) <= epochs
    scheduler = ResumableASHA([curve(n, [0.9] * epochs) for n in range(6)], epochs, warm)
    stopped = decisions(scheduler, 6, [0.0] * epochs)
    assert stopped.index(TrialScheduler.STOP) + 1 > warm
