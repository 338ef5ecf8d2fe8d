"""What a model is trained for, and the metric by which its epochs and trials are compared. Follows from the recipe's loss."""

from __future__ import annotations

from typing import Literal, NamedTuple

TaskName = Literal["retrieval", "classification"]


class Task(NamedTuple):
    metric: str  # its name among an epoch's figures
    heading: str  # in tables and lines
    unit: str  # what is held out for validation, and kept for the test

    @property
    def held_out(self) -> str:
        return f"validation {self.unit}"


TASKS: dict[TaskName, Task] = {
    "retrieval": Task("recall_at_1", "R@1", "classes"),
    "classification": Task("top_1", "top-1", "images"),
}

# Whatever the task, an epoch's figures hold its metric under the first name, and the running best under the second.
SCORE = "score"
BEST_SCORE = "best_score"


def heading(metric: str) -> str:
    """A metric's short name in tables: R@10 for recall_at_10."""
    others = {"r_precision": "RP", "map_at_r": "MAP@R", "nmi": "NMI", "f1": "F1", "top_1": "top-1", "top_5": "top-5"}
    return others.get(metric) or metric.replace("recall_at_", "R@")
