"""Optuna as the searcher, rebuilt from records: as if the sweep had never stopped."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from dfml.task import BEST_SCORE
from orchestration.records import State, TrialRecord
from orchestration.reports import FAILED, UNFIT
from orchestration.search.sampler import TPEByNumber
from orchestration.search.searcher import OptunaSearcher, searcher
from orchestration.search.space import SearchSpace, build_space

TRIALS = 16  # more than TPE leaves to chance
EPOCHS = 2
SPACE: SearchSpace = build_space(
    {
        "recipe": {"backbone": "test_resnet", "image_size": 32},
        "search": {
            "routers": {"choice": [2, 4]},
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "schedule": {"choice": {"step": {"gamma": {"low": 0.2, "high": 0.9}}, "cosine": {}}},
        },
        "first": [{"routers": 4, "lr": 1e-3}],
    },
    "test",
)


def value_of(config: dict[str, Any]) -> float:
    """A known optimum, so that TPE has something to model."""
    return -abs(config["recipe"]["lr"] - 2e-3) - 0.01 * config["recipe"]["routers"]


def begun(config: dict[str, Any]) -> TrialRecord:
    return TrialRecord(
        number=config["number"], parameters=config["parameters"], recipe=config["recipe"], flops=config["flops"]
    )


def run_epoch(search: OptunaSearcher, record: TrialRecord) -> None:
    """One more epoch of a trial, told to the searcher and to its record."""
    epoch = len(record.epochs) + 1
    record.add({"epoch": epoch, BEST_SCORE: value_of(record.model_dump()) * (2 - epoch / EPOCHS)})
    search.on_trial_result(str(record.number), record.epochs[-1])


def play(records: list[TrialRecord], until: int, seed: int = 3, concurrent: int = 1, **more: Any) -> list[TrialRecord]:
    """Ask for trials and tell their epochs, as Tune does, until `until` have ended: every third stopped after its first epoch.

    `concurrent` run side by side, an epoch each in turn; those left are cut.
    """
    found = [record.model_copy(deep=True) for record in records]
    search = searcher(SPACE, seed, {"epochs": EPOCHS}, found, **more)
    running: list[TrialRecord] = []
    while len([r for r in found if r.state != "running"]) < until:
        while len(running) < concurrent:
            config = search.suggest(f"new-{len(running)}-{len(found)}")
            assert config is not None
            search._running[str(config["number"])] = search._running.pop(f"new-{len(running)}-{len(found)}")
            known = [record for record in found if record.number == config["number"]]
            running += known or [begun(config)]
            found += [] if known else running[-1:]
        record = running.pop(0)
        run_epoch(search, record)
        if len(record.epochs) == EPOCHS or record.number % 3 == 2:
            record.state = "finished" if len(record.epochs) == EPOCHS else "stopped"
            search.on_trial_complete(str(record.number), record.epochs[-1])
        else:
            running.append(record)
    return found


@functools.cache
def undisturbed(seed: int = 3, concurrent: int = 1, objectives: Any = ("score",)) -> list[TrialRecord]:
    """All trials of a search that is never interrupted."""
    return play([], TRIALS, seed, concurrent, objectives=objectives)


def test_the_first_trial_is_the_files_first() -> None:
    recipe = play([], 1)[0].recipe
    assert (recipe["routers"], recipe["lr"]) == (4, 1e-3)


def test_a_seed_decides_all_configurations() -> None:
    a, b, other = undisturbed(), play([], TRIALS), undisturbed(seed=4)
    assert [r.parameters for r in a] == [r.parameters for r in b]
    assert [r.parameters for r in a[1:]] != [r.parameters for r in other[1:]]
    assert len({str(r.parameters) for r in a}) == TRIALS


@pytest.mark.parametrize("objectives", [("score",), ("score", "flops")])
@pytest.mark.parametrize("concurrent", [1, 3])
@pytest.mark.parametrize("stop", [1, 9, 13])
def test_an_interrupted_search_goes_on_as_if_it_had_not_stopped(stop: int, concurrent: int, objectives: Any) -> None:
    """Also past the random start-up, where TPE models what came before, trials that are cut among it."""
    more = {"concurrent": concurrent, "objectives": objectives}
    cut = play([], stop, **more)
    assert len([record for record in cut if record.state == "running"]) == concurrent - 1
    assert [r.parameters for r in play(cut, TRIALS, **more)] == [r.parameters for r in undisturbed(**more)]


def test_a_trial_that_was_cut_comes_first_with_its_number_and_configuration() -> None:
    records = play([], 4)
    records[2].state = "running"  # two ran at once: 3 had ended, 2 was cut
    search = searcher(SPACE, 3, {}, records)
    config = search.suggest("a")
    assert config is not None
    assert (config["number"], config["parameters"], config["recipe"]) == (
        2,
        records[2].parameters,
        records[2].recipe,
    )
    following = search.suggest("b")
    assert following is not None
    assert following["number"] == 4


def test_a_point_that_a_widened_space_adds_to_those_tried_first_is_tried() -> None:
    records = play([], 4)
    content = SPACE.model_dump(exclude_defaults=True)
    added = {**content["first"][0], "routers": 2}
    search = searcher(build_space({**content, "first": [*content["first"], added]}, "test"), 3, {}, records)
    config = search.suggest("a")
    assert config is not None
    assert (config["number"], config["recipe"]["routers"], config["recipe"]["lr"]) == (4, 2, added["lr"])


ENDS: list[tuple[State, bool]] = [("finished", False), ("stopped", False), ("failed", True), ("failed", False)]


def told(search: OptunaSearcher) -> list[optuna.trial.FrozenTrial]:
    return search._trials.study.trials


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_stopped_trial_is_told_as_pruned_with_each_epoch_and_an_unfit_one_with_the_worst_score(rebuilt: bool) -> None:
    """Whether it happened in this session or is read from the records."""
    search = searcher(SPACE, 3, {"epochs": 4}, [])
    records = []
    for number, last in enumerate([{}, {}, {FAILED: "the loss is nan", UNFIT: True}, {FAILED: "lost", UNFIT: False}]):
        config = search.suggest(str(number))
        assert config is not None
        records.append(record := begun(config))
        for epoch in range(1, 5 if number == 0 else 3):
            record.add({"epoch": epoch, BEST_SCORE: 0.1 * epoch})
            search.on_trial_result(str(number), record.epochs[-1])
        # Tune tells the last result again, which needn't be an epoch's.
        search.on_trial_complete(str(number), {"workers": 2, **last})
        record.state, record.unfit = ENDS[number]
    if rebuilt:
        search = searcher(SPACE, 3, {"epochs": 4}, records)
    trials = told(search)
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
        TrialState.FAIL,
    ]
    assert [trial.value for trial in trials[:3]] == pytest.approx([0.4, 0.2, 0.0])
    assert [any(value > 0 for value in trial.constraints.values()) for trial in trials] == [False, False, True, False]
    assert trials[3].values is None
    assert trials[1].intermediate_values == pytest.approx({1: 0.1, 2: 0.2})
    assert search.suggest("next")["number"] == 4  # type: ignore[index]


@pytest.mark.integration
@pytest.mark.parametrize("rebuilt", [False, True])
@pytest.mark.parametrize("objectives", [("score",), ("score", "flops")])
def test_the_search_keeps_away_from_where_trials_diverge(rebuilt: bool, objectives: Any) -> None:
    """With rates from 2.2e-3 on, a third of the range, diverging after two epochs; a sampler that passes over them goes there.

    Rebuilt now and then, the search knows of them from the records.
    """
    diverged, later = 0, 0
    for seed in range(3):
        records: list[TrialRecord] = []
        search = searcher(SPACE, seed, {"epochs": 3}, [], objectives)
        for number in range(35):
            if rebuilt and number % 7 == 5:
                search = searcher(SPACE, seed, {"epochs": 3}, records, objectives)
            config = search.suggest(str(number))
            assert config is not None
            records.append(record := begun(config))
            record.unfit = config["recipe"]["lr"] >= 2.2e-3
            for epoch in range(1, 3 if record.unfit else 4):
                score = 0.9 - 0.1 * abs(math.log(config["recipe"]["lr"] / 5e-4))
                record.add({"epoch": epoch, BEST_SCORE: score * epoch / 3})
                search.on_trial_result(str(number), record.epochs[-1])
            record.state = "failed" if record.unfit else "finished"
            search.on_trial_complete(str(number), {FAILED: "the loss is nan", UNFIT: True} if record.unfit else None)
        later += 25
        diverged += sum(record.unfit for record in records[10:])
    assert diverged < later / 4


def test_no_trial_is_suggested_when_the_budget_is_spent() -> None:
    search = searcher(SPACE, 3, {"epochs": 4}, [], is_over=lambda: True)
    assert search.suggest("a") == Searcher.FINISHED


def test_a_trial_whose_process_died_is_told_as_failed() -> None:
    search = searcher(SPACE, 3, {"epochs": 4}, [])
    search.suggest("a")
    search.on_trial_complete("a", error=True)
    assert told(search)[0].state == TrialState.FAIL


def test_trials_that_run_at_once_are_known_to_the_sampler() -> None:
    """A sampler that doesn't know what is pending proposes much the same again and again."""

    def alike(liar: bool) -> int:
        """Pairs among 16 proposals at once with the same choices and rates less than a tenth apart, over 5 seeds."""
        found = 0
        for seed in range(5):
            sampler = TPEByNumber(seed, alike=0.0, constant_liar=liar)  # none is drawn again
            search = OptunaSearcher(SPACE, sampler, {"epochs": EPOCHS}, undisturbed(), ("score",))
            recipes = [search.suggest(str(n))["recipe"] for n in range(16)]  # type: ignore[index]
            for a, b in itertools.combinations(recipes, 2):
                same = a["routers"] == b["routers"] and a["schedule"]["kind"] == b["schedule"]["kind"]
                found += same and abs(math.log(a["lr"] / b["lr"])) < 0.1
        return found

    assert 10 * alike(liar=True) < alike(liar=False)
    assert TPEByNumber(0)._of(0)._constant_liar


def test_a_configuration_that_is_like_an_earlier_one_is_drawn_again() -> None:
    """TPE comes back to where it did well, and learns little there."""

    start = play([], 10)

    def alike(share: float) -> int:
        """Of six proposals after the start-up, for five seeds, those that differ from one before by less than a tenth of the rate's range."""
        found = 0
        for seed in range(5):
            seen: list[dict[str, Any]] = []
            search = OptunaSearcher(SPACE, TPEByNumber(seed, alike=share), {"epochs": EPOCHS}, start, ("score",))
            for number in range(6):
                recipe = search.suggest(str(number))["recipe"]  # type: ignore[index]
                score = value_of({"recipe": recipe})
                search.on_trial_complete(str(number), {"epoch": EPOCHS, BEST_SCORE: score})
                same = [r for r in seen if (r["routers"], r["schedule"]) == (recipe["routers"], recipe["schedule"])]
                found += any(abs(math.log(r["lr"] / recipe["lr"])) < 0.1 * math.log(100) for r in same)
                seen.append(recipe)
        return found

    assert alike(0.1) < alike(0.0)


def test_flops_among_the_objectives_are_counted_for_each_configuration() -> None:
    records = play([], 12, objectives=("score", "flops"))
    by_routers = {record.recipe["routers"]: record.flops for record in records}
    assert by_routers[2] > by_routers[4] > 1e6  # type: ignore[operator]
    assert len({record.flops for record in records}) == 2
    search = searcher(SPACE, 3, {"epochs": EPOCHS}, records, ("score", "flops"))
    for trial, record in zip(told(search), records, strict=True):
        assert (trial.state, trial.values) == (TrialState.COMPLETE, [record.best, record.flops])
    assert all(record.flops is None for record in play([], 2))
