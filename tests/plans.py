"""Plans of sweeps that are never run."""

from __future__ import annotations

from typing import Any

from dfml.data.datasets import DATASETS
from orchestration.plan import Plan
from orchestration.search.space import SearchSpace, build_space


def plan_of(space: SearchSpace | None = None, **changes: Any) -> Plan:
    """Three trials on the emoji, which search the router count alone unless a space is given."""
    values = {
        "name": "a",
        "dataset": "emoji",
        "data": str(DATASETS["emoji"]),
        "trials": 3,
        "workers_per_trial": 2,
        "seed": 0,
        "space": space or build_space({"search": {"routers": {"choice": [2, 3]}}}, "test"),
    }
    return Plan(**values | changes)
