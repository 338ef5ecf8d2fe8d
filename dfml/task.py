"""The task of a recipe, given by its loss, and the metric that ranks epochs and trials."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

TaskName = Literal["retrieval", "classification"]


class Task(NamedTuple):
    metric: str  # its name among an epoch's metrics
    heading: str  # the metric's short name for tables and console lines
    unit: str  # the unit that splits hold out for validation and test


TASKS: dict[TaskName, Task] = {
    "retrieval": Task("recall_at_1", "R@1", "classes"),
    "classification": Task("top_1", "top-1", "images"),
}

# An epoch's metrics by name: numbers, and `router_load` as rows (see `dfml.telemetry`).
EpochMetrics = dict[str, Any]

# An epoch's metrics hold the metric of its task as SCORE, and the running best as BEST_SCORE.
SCORE = "score"
BEST_SCORE = "best_score"


def heading(metric: str) -> str:
    """Return a metric's short name for tables, such as R@10 for recall_at_10."""
    others = {"r_precision": "RP", "map_at_r": "MAP@R", "nmi": "NMI", "f1": "F1", "top_1": "top-1", "top_5": "top-5"}
    return others.get(metric) or metric.replace("recall_at_", "R@")
