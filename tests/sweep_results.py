"""Results of sweeps that were never run: handmade records and the report that is made from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfml.task import BEST_SCORE, SCORE
from orchestration.job import job_in
from orchestration.plan import Plan
from orchestration.report.improvement import improvement
from orchestration.report.numbers import csv_files
from orchestration.report.optuna_charts import Search
from orchestration.report.page import page
from orchestration.report.report import draw
from orchestration.report.reproductions import Reproduction, over_seeds
from orchestration.report.results import Results, best_trial
from orchestration.report.style import styled
from orchestration.search.objectives import pareto_front
from orchestration.search.searcher import searcher
from orchestration.search.space import SearchSpace, build_space
from orchestration.sweep_file import SweepFile
from orchestration.sweep_folder.records import TrialRecord
from tests.plans import SETTINGS, plan_of

SPACE = build_space(
    {
        "recipe": {"epochs": 4, "warm_epochs": 0},
        "search": {
            "num_sub_blocks": {"choice": [2, 3]},
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "schedule": {"choice": {"step": {"gamma": {"low": 0.2, "high": 0.9}}, "cosine": {}}},
        },
        "first": [{"num_sub_blocks": 3, "lr": 1e-3, "schedule": {"kind": "cosine"}}],
    },
    "test",
)
# Number of routers of a backbone.
ROUTERS = 4


def record(number: int, score: float, **changes: Any) -> TrialRecord:
    """Return the record of a trial of one epoch."""
    recipe = {"num_sub_blocks": 2, "lr": 3e-4}
    made = TrialRecord(
        number=number, parameters={"num_sub_blocks": 2}, recipe=recipe, **{"state": "finished"} | changes
    )
    made.add({"epoch": 1, SCORE: score, BEST_SCORE: score, "best_epoch": 1})
    return made


def scores(recall: float) -> dict[str, float]:
    return {"recall_at_1": recall, "recall_at_2": recall + 0.1, "recall_at_4": 1.0, "map_at_r": recall / 2}


def results(*recalls: float | str, protocol: str = "holdout", **changes: Any) -> Results:
    """Return the results of a sweep by the winner's R@1 per seed, or the reason why it failed."""
    reproductions = [
        Reproduction(seed=seed, reason=recall)
        if isinstance(recall, str)
        else Reproduction(seed=seed, epochs=2, test=scores(recall))
        for seed, recall in enumerate(recalls, start=7)
    ]
    values: dict[str, Any] = {
        "sweep": "sweeps/a",
        "data": "unused",
        "protocol": protocol,
        "seed": 7,
        "trials": [record(0, 0.6), record(1, 0.7)],
        "winner": 1,
        "winner_epochs": 2,
        "test": {"winner": reproductions[0].test, "raw pixels": scores(0.1)},
        "test_evaluations": 5,
        "reproductions": reproductions,
        "interval": over_seeds(reproductions),
        "front": [],
        "retrievals": [],
        "router_names": [f"{block}.router" for block in range(ROUTERS)],
        "runs": [],
        "earlier_runs": [],
    }
    return Results(**values | changes)


def trials(*told: tuple[str, list[float]], space: SearchSpace = SPACE, flops: bool = False) -> list[TrialRecord]:
    """Return trials as the sampler gives them, from the state and the scores per epoch of each.

    The first trial is the first of the search space.
    """
    search, made = searcher(space, 0, SETTINGS, 4, []), []
    rng = np.random.default_rng(0)
    for number, (state, reached) in enumerate(told):
        config = search.suggest(str(number))
        assert isinstance(config, dict)
        one = job_in(config).record()
        one.state = state
        one.reason = "the loss is nan" if state == "failed" else None
        one.flops = 1e9 * (number + 1) if flops else None
        one.began, one.workers_started, one.ended = 1e9, 1e9 + 5, 1e9 + 5 + 12 * len(reached)
        for epoch, score in enumerate(reached, start=1):
            best = max(reached[:epoch])
            of_score = {SCORE: score, BEST_SCORE: best, "best_epoch": 1 + reached.index(best)}
            seconds = {"train_seconds": 8.0, "validation_seconds": 3.0}
            one.add(
                {
                    "epoch": epoch,
                    "loss": 10 / epoch,
                    **of_score,
                    **seconds,
                    **routing(rng, one.recipe.num_sub_blocks),
                }
            )
        made.append(one)
    return made


def routing(rng: np.random.Generator, sub_blocks: int) -> dict[str, Any]:
    """Return random metrics of routers, of which the last has collapsed."""
    loads = rng.dirichlet(np.ones(sub_blocks), ROUTERS)
    loads[-1] = [0.99] + [0.01 / (sub_blocks - 1)] * (sub_blocks - 1)
    loads[:-1] = 0.5 * loads[:-1] + 0.5 / sub_blocks
    return {
        "router_entropy": float(rng.uniform()),
        "router_switched": float(rng.uniform()),
        "routers_collapsed": 1.0,
        "router_load": loads.tolist(),
    }


def results_of_trials(records: list[TrialRecord], **changes: Any) -> Results:
    """Return the results of a sweep of these trials, scored with one seed."""
    won = best_trial(records)
    assert won is not None
    front = [one.number for one in pareto_front(records)]
    return results(0.5, **{"trials": records, "winner": won.number, "front": front, **changes})


def begun(space: SearchSpace | None = None, **changes: Any) -> SweepFile:
    plan: Plan = plan_of(space, **changes)
    return SweepFile(
        created="2026-11-27T10:00:00+00:00",
        plan=plan,
        manifest_sha256="0" * 64,
        versions={"torch": "2.14.1"},
        git_revision="abc",
        command="python run_sweep.py --seed 7",
    )


def page_of(results: Results, of: SweepFile | None = None) -> str:
    """Return the report's page without its figures."""
    of = of or begun()
    plan = of.plan
    search = Search(results, plan.space, plan.objectives)
    better = improvement(results, plan.space, plan.defaults().epochs, plan.dataset)
    with styled():
        return page(results, of, better, draw(results, search), [], {}, csv_files(results, search, better))
