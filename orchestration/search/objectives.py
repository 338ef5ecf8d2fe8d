"""The objectives of a sweep: the task's score, and optionally the FLOPs of routed inference.

With both there isn't one best trial but a Pareto front. ASHA and the choice of the winner use the
score only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dfml.errors import InvalidInput
from orchestration.sweep_folder.records import TrialRecord

ObjectiveName = Literal["score", "flops"]  # R@1 or top-1, to be raised; FLOPs per image, to be lowered
# Names on the command line, and those in the plan.
NAMES: dict[str, ObjectiveName] = {"recall@1": "score", "top@1": "score", "flops": "flops"}
SCORE_ALONE: tuple[ObjectiveName, ...] = ("score",)


def parse_objectives(text: str) -> tuple[ObjectiveName, ...]:
    """Parse `--objectives`, such as "recall@1,flops".

    Raises:
        InvalidInput: an objective is unknown, or the first isn't a score.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in NAMES:
            raise InvalidInput(f"--objectives {text!r}: there is no objective {name!r}; choose from {', '.join(NAMES)}")
    found = tuple(dict.fromkeys(NAMES[name] for name in names))
    if found[0] != "score":
        raise InvalidInput(
            f"--objectives {text!r} doesn't begin with a score; give recall@1,flops (top@1,flops for classification)"
        )
    return found


def directions(objectives: Sequence[ObjectiveName]) -> list[Literal["maximize", "minimize"]]:
    """Return the directions of objectives by their names in Optuna."""
    return ["maximize" if objective == "score" else "minimize" for objective in objectives]


def values_of(record: TrialRecord, objectives: Sequence[ObjectiveName]) -> list[float] | None:
    """Return a trial's value of each objective; None if it lacks a score or FLOPs."""
    found = [record.best if objective == "score" else record.flops for objective in objectives]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None


def pareto_front(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the Pareto front of score and FLOPs, in descending order of score.

    It includes trials that were stopped early: their best checkpoint has that score.
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
