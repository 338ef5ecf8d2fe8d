"""The tables of a sweep, as the console and the report show them: headings and rows of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dfml.task import TASKS, heading
from orchestration.records import TrialRecord, describe


class Cost(NamedTuple):
    """A column that stands where any trial has a value: what its training took, and an inference takes."""

    heading: str
    value: Callable[[TrialRecord], float]
    shown: Callable[[float], str]


COSTS = (
    Cost("GFLOPs", lambda record: record.flops or 0.0, lambda flops: f"{flops / 1e9:.3g}"),
    Cost("CPU h", lambda record: record.cpu_hours, lambda hours: hours_shown(hours)),
    Cost("GPU h", lambda record: record.gpu_hours, lambda hours: hours_shown(hours)),
    Cost("from S3", lambda record: float(record.s3_bytes), lambda size: byte_size(size)),
)


def hours_shown(hours: float) -> str:
    """Two decimals, or the first digit that isn't 0."""
    return f"{hours:.2f}" if hours >= 0.1 else f"{hours:.1g}"


def byte_size(size: float) -> str:
    """A number of bytes in decimal units: 1.24 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"


def _costs(records: list[TrialRecord]) -> list[Cost]:
    return [cost for cost in COSTS if any(cost.value(record) for record in records)]


def trial_columns(records: list[TrialRecord]) -> list[str]:
    """Headings of the trials' table; what the score is of, its title says (`trial_title`)."""
    costs = [cost.heading for cost in _costs(records)]
    return ["trial", "K", "lr", "schedule", "epochs", records[0].heading, *costs, "ended"]


def trial_title(records: list[TrialRecord], scored_on: str) -> str:
    """The table's title.

    Args:
        records: of the trials.
        scored_on: "validation", or "test" where that is what chose epoch and trial.
    """
    task = TASKS[records[0].training_recipe().task]
    return f"Trials ({task.heading} on {scored_on} {task.unit})"


def trial_rows(records: list[TrialRecord]) -> list[list[str]]:
    """The trials as rows of `trial_columns`."""
    costs = _costs(records)
    rows = []
    for record in records:
        recipe = record.training_recipe()
        best = "" if record.best is None else f"{record.best:.3f}"
        schedule = describe(recipe).split(" ", 3)[3]
        spent = [cost.shown(cost.value(record)) for cost in costs]
        cells = [record.number, recipe.routers, f"{recipe.lr:.1e}", schedule, len(record.epochs), best, *spent]
        rows.append([*(str(cell) for cell in cells), how_it_ended(record)])
    return rows


def front_table(front: list[TrialRecord], scored_on: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a Pareto front, by falling score."""
    rows = []
    for record in front:
        recipe = record.training_recipe()
        cells = [
            record.number,
            recipe.routers,
            recipe.blocks,
            f"{(record.flops or 0.0) / 1e9:.3g}",
            f"{record.best:.3f}",
        ]
        rows.append([str(cell) for cell in cells])
    return ["trial", "K", "blocks", "GFLOPs", f"{scored_on} {front[0].heading}"], rows


FRONT = "Pareto front: trials that no other beats in score and in FLOPs of an image's inference through the routed path"


def how_it_ended(record: TrialRecord) -> str:
    """ "finished", or what stopped it, or why it failed."""
    if record.state == "stopped":
        return f"stopped: {record.reason or 'ASHA'}"
    return record.state if record.reason is None else f"{record.state}: {record.reason}"


def shown_metrics(metrics: dict[str, float]) -> dict[str, str]:
    """Of a test's metrics those that tables show, with their headings: all but the R@K after the second."""
    recalls = [name for name in metrics if name.startswith("recall_at_")]
    return {name: heading(name) for name in metrics if name not in recalls[2:]}


def score_table(test: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the scores on the test classes: the winner's first, then the baselines'."""
    names = shown_metrics(test["winner"])
    rows = [[who, *(f"{m[name]:.3f}" if name in m else "" for name in names)] for who, m in test.items()]
    return ["", *names.values()], rows


def sentence(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]
