"""What a sweep optimises: the task's score, and on request the FLOPs of routed inference against it.

With both there is no one best trial but a Pareto front. ASHA, and the choice of the winner, look at the score only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orchestration.records import TrialRecord

Objective = Literal["score", "flops"]  # R@1 or top-1, to be raised; FLOPs of an image, to be lowered
SCORE_ALONE: tuple[Objective, ...] = ("score",)


def directions(objectives: Sequence[Objective]) -> list[Literal["maximize", "minimize"]]:
    """In Optuna's words."""
    return ["maximize" if objective == "score" else "minimize" for objective in objectives]


def values_of(record: TrialRecord, objectives: Sequence[Objective]) -> list[float] | None:
    """A trial's value of each objective; None where it has no score, or its FLOPs weren't counted."""
    found = [record.best if objective == "score" else record.flops for objective in objectives]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None


def pareto_front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that no other beats: none has as much score for as few FLOPs, and more of one or less of the other. By falling score.

    Trials that were stopped early are among them: their best checkpoint has that score at those FLOPs.
    """
    points = {
        record.number: (-values[0], values[1])  # less is better in both
        for record in records
        if record.state != "failed" and (values := values_of(record, ("score", "flops")))
    }

    def beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points.values())

    front = [record for record in records if record.number in points and not beaten(points[record.number])]
    return sorted(front, key=lambda record: points[record.number])
