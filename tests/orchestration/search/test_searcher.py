"""Optuna's searcher rebuilt from records: as if the sweep had never stopped."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from dfml.recipe import Recipe
from dfml.task import BEST_SCORE
from orchestration.job import TrialJob, job_in
from orchestration.search.sampler import ReproducibleTPESampler
from orchestration.search.searcher import OptunaSearcher, searcher
from orchestration.search.space import SearchSpace, build_space
from orchestration.sweep_folder.records import State, TrialRecord
from tests.plans import SETTINGS

TRIALS = 16  # more than TPE's random start-up
EPOCHS = 2
SPACE: SearchSpace = build_space(
    {
        "recipe": {"backbone": "test_resnet", "image_size": 32},
        "search": {
            "num_sub_blocks": {"choice": [2, 4]},
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "schedule": {"choice": {"step": {"gamma": {"low": 0.2, "high": 0.9}}, "cosine": {}}},
        },
        "first": [{"num_sub_blocks": 4, "lr": 1e-3}],
    },
    "test",
)


def value_of(recipe: Recipe) -> float:
    """Return a score with a known optimum, so that TPE has something to model."""
    return -abs(recipe.lr - 2e-3) - 0.01 * recipe.num_sub_blocks


def search_of(seed: int, records: list[TrialRecord], epochs: int = EPOCHS, **more: Any) -> OptunaSearcher:
    return searcher(more.pop("space", SPACE), seed, SETTINGS, epochs, records, **more)


def suggested(search: OptunaSearcher) -> TrialJob:
    config = search.suggest("any")
    assert isinstance(config, dict)
    job: TrialJob = job_in(config)
    return job


def run_epoch(search: OptunaSearcher, record: TrialRecord, score: float | None = None) -> None:
    """Run one more epoch of a trial, as the recorder reports it."""
    epoch = len(record.epochs) + 1
    record.add({"epoch": epoch, BEST_SCORE: value_of(record.recipe) * (2 - epoch / EPOCHS) if score is None else score})
    search.epoch_ended(record, EPOCHS)


def end(search: OptunaSearcher, record: TrialRecord, state: State, unfit: bool = False) -> None:
    record.state, record.unfit = state, unfit
    search.trial_ended(record)


def play(records: list[TrialRecord], until: int, seed: int = 3, concurrent: int = 1, **more: Any) -> list[TrialRecord]:
    """Ask for trials and run their epochs, as Tune does, until `until` trials have ended.

    Every third trial is stopped after one epoch. `concurrent` trials run at the same time, one
    epoch each in turn; the remaining ones are interrupted.
    """
    found = [record.model_copy(deep=True) for record in records]
    search = search_of(seed, found, **more)
    running: list[TrialRecord] = []
    while len([r for r in found if r.state != "running"]) < until:
        while len(running) < concurrent:
            job = suggested(search)
            known = [record for record in found if record.number == job.number]
            running += known or [job.record()]
            found += [] if known else running[-1:]
        record = running.pop(0)
        run_epoch(search, record)
        if len(record.epochs) == EPOCHS or record.number % 3 == 2:
            end(search, record, "finished" if len(record.epochs) == EPOCHS else "stopped")
        else:
            running.append(record)
    return found


@functools.cache
def undisturbed(seed: int = 3, concurrent: int = 1, objectives: Any = ("score",)) -> list[TrialRecord]:
    """Return all trials of a search that is never interrupted."""
    return play([], TRIALS, seed, concurrent, objectives=objectives)


def test_the_first_trial_is_the_files_first() -> None:
    recipe = play([], 1)[0].recipe
    assert (recipe.num_sub_blocks, recipe.lr) == (4, 1e-3)


def test_a_seed_decides_all_configurations() -> None:
    a, b, other = undisturbed(), play([], TRIALS), undisturbed(seed=4)
    assert [r.parameters for r in a] == [r.parameters for r in b]
    assert [r.parameters for r in a[1:]] != [r.parameters for r in other[1:]]
    assert len({str(r.parameters) for r in a}) == TRIALS


@pytest.mark.parametrize("objectives", [("score",), ("score", "flops")])
@pytest.mark.parametrize("concurrent", [1, 3])
@pytest.mark.parametrize("stop", [1, 9, 13])
def test_an_interrupted_search_goes_on_as_if_it_had_not_stopped(stop: int, concurrent: int, objectives: Any) -> None:
    """This includes the trials after the start-up, when TPE models earlier and interrupted ones."""
    more = {"concurrent": concurrent, "objectives": objectives}
    cut = play([], stop, **more)
    assert len([record for record in cut if record.state == "running"]) == concurrent - 1
    assert [r.parameters for r in play(cut, TRIALS, **more)] == [r.parameters for r in undisturbed(**more)]


def test_a_trial_that_was_cut_comes_first_with_its_number_and_configuration() -> None:
    records = play([], 4)
    records[2].state = "running"  # two ran concurrently: 3 had ended, 2 was interrupted
    search = search_of(3, records)
    job = suggested(search)
    assert (job.number, job.parameters, job.recipe) == (2, records[2].parameters, records[2].recipe)
    assert suggested(search).number == 4


def test_a_point_that_a_widened_space_adds_to_those_tried_first_is_tried() -> None:
    records = play([], 4)
    content = SPACE.model_dump(exclude_defaults=True)
    added = {**content["first"][0], "num_sub_blocks": 2}
    job = suggested(search_of(3, records, space=build_space({**content, "first": [*content["first"], added]}, "test")))
    assert (job.number, job.recipe.num_sub_blocks, job.recipe.lr) == (4, 2, added["lr"])


ENDS: list[tuple[State, bool]] = [("finished", False), ("stopped", False), ("failed", True), ("failed", False)]


def told(search: OptunaSearcher) -> list[optuna.trial.FrozenTrial]:
    return search.sweep_study.study.trials


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_stopped_trial_is_told_as_pruned_with_each_epoch_and_an_unfit_one_with_the_worst_score(rebuilt: bool) -> None:
    """The event is of this session, or rebuilt from the records."""
    search = search_of(3, [], epochs=4)
    records = []
    for number, (state, unfit) in enumerate(ENDS):
        records.append(record := suggested(search).record())
        for epoch in range(1, 5 if number == 0 else 3):
            run_epoch(search, record, 0.1 * epoch)
        end(search, record, state, unfit)
    if rebuilt:
        search = search_of(3, records, epochs=4)
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
    assert suggested(search).number == 4


@pytest.mark.integration
@pytest.mark.parametrize("rebuilt", [False, True])
@pytest.mark.parametrize("objectives", [("score",), ("score", "flops")])
def test_the_search_keeps_away_from_where_trials_diverge(rebuilt: bool, objectives: Any) -> None:
    """Rates above 2.2e-3, a third of the range, diverge after two epochs.

    A sampler that ignores diverged trials would sample there. A rebuilt search knows of them from
    the records.
    """
    diverged, later = 0, 0
    for seed in range(3):
        records: list[TrialRecord] = []
        search = search_of(seed, [], epochs=3, objectives=objectives)
        for number in range(35):
            if rebuilt and number % 7 == 5:
                search = search_of(seed, records, epochs=3, objectives=objectives)
            records.append(record := suggested(search).record())
            unfit = record.recipe.lr >= 2.2e-3
            for epoch in range(1, 3 if unfit else 4):
                run_epoch(search, record, (0.9 - 0.1 * abs(math.log(record.recipe.lr / 5e-4))) * epoch / 3)
            end(search, record, "failed" if unfit else "finished", unfit)
        later += 25
        diverged += sum(record.unfit for record in records[10:])
    assert diverged < later / 4


def test_no_trial_is_suggested_when_the_budget_is_spent() -> None:
    assert search_of(3, [], is_over=lambda: True).suggest("a") == Searcher.FINISHED


def test_a_trial_whose_process_died_is_told_as_failed() -> None:
    search = search_of(3, [])
    end(search, suggested(search).record(), "failed")
    assert told(search)[0].state == TrialState.FAIL


def test_trials_that_run_at_once_are_known_to_the_sampler() -> None:
    """A sampler that doesn't know the pending trials proposes similar ones again and again."""

    def alike(liar: bool) -> int:
        """Count the similar pairs among 16 concurrent proposals, over 20 seeds.

        A pair is similar if its choices are equal and its rates less than a tenth apart.
        """
        found = 0
        for seed in range(20):
            sampler = ReproducibleTPESampler(seed, alike=0.0, constant_liar=liar)  # no proposal is drawn again
            search = OptunaSearcher(SPACE, sampler, SETTINGS, EPOCHS, undisturbed())
            recipes = [suggested(search).recipe for _ in range(16)]
            for a, b in itertools.combinations(recipes, 2):
                same = a.num_sub_blocks == b.num_sub_blocks and a.schedule.kind == b.schedule.kind
                found += same and abs(math.log(a.lr / b.lr)) < 0.1
        return found

    assert 10 * alike(liar=True) < alike(liar=False)


def test_a_configuration_that_is_like_an_earlier_one_is_drawn_again() -> None:
    """TPE returns to good configurations, from which it learns little."""
    space = build_space({"search": {name: SPACE.search[name] for name in ("num_sub_blocks", "lr")}}, "test")
    start = play([], 10, space=space)

    def alike(share: float) -> int:
        """Count the proposals after the start-up that are similar to an earlier one, over 10 seeds.

        Similar rates differ by less than 5 % of the range.
        """
        found = 0
        for seed in range(10):
            seen: list[Recipe] = []
            search = OptunaSearcher(space, ReproducibleTPESampler(seed, alike=share), SETTINGS, EPOCHS, start)
            for _ in range(6):
                record = suggested(search).record()
                recipe = record.recipe
                record.add({"epoch": EPOCHS, BEST_SCORE: value_of(recipe)})
                search.epoch_ended(record, EPOCHS)
                end(search, record, "finished")
                rates = [r.lr for r in seen if r.num_sub_blocks == recipe.num_sub_blocks]
                found += any(abs(math.log(rate / recipe.lr)) < 0.05 * math.log(100) for rate in rates)
                seen.append(recipe)
        return found

    assert alike(0.05) < alike(0.0)


def test_flops_among_the_objectives_are_counted_for_each_configuration() -> None:
    records = play([], 12, objectives=("score", "flops"))
    by_routers = {record.recipe.num_sub_blocks: record.flops for record in records}
    assert by_routers[2] > by_routers[4] > 1e6  # type: ignore[operator]
    assert len({record.flops for record in records}) == 2
    search = search_of(3, records, objectives=("score", "flops"))
    for trial, record in zip(told(search), records, strict=True):
        assert (trial.state, trial.values) == (TrialState.COMPLETE, [record.best, record.flops])
    assert all(record.flops is None for record in play([], 2))
