"""Plans of sweeps and jobs of trials that are never run."""

from __future__ import annotations

from typing import Any

from dfml.data.datasets import SHIPPED
from dfml.recipe import Recipe
from orchestration.job import SweepSettings, TrialJob
from orchestration.plan import Plan
from orchestration.search.space import SearchSpace, build_space


def plan_of(space: SearchSpace | None = None, **changes: Any) -> Plan:
    """Return a plan of three trials on the emoji; by default it searches the sub-blocks only."""
    values = {
        "name": "a",
        "dataset": "emoji",
        "data": str(SHIPPED["emoji"]),
        "trials": 3,
        "workers_per_trial": 2,
        "seed": 0,
        "space": space or build_space({"search": {"num_sub_blocks": {"choice": [2, 3]}}}, "test"),
    }
    return Plan(**values | changes)


SETTINGS = SweepSettings("nowhere")


def job_of(number: int = 0, epochs: int = 2, recipe: Recipe | None = None, **settings: Any) -> TrialJob:
    """Return the job of a trial with the default recipe."""
    return TrialJob(SweepSettings(**{"sweep": "nowhere"} | settings), number, {}, recipe or Recipe(), epochs)
