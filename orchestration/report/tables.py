"""The tables of a sweep for the console and the report: headings and rows of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rich.filesize import decimal

from dfml.task import TASKS, heading
from orchestration.sweep_folder.records import TrialRecord, describe


class Cost(NamedTuple):
    """A column for a trial's cost; tables have it if any trial has a value."""

    heading: str
    value: Callable[[TrialRecord], float]
    shown: Callable[[float], str]


COSTS = (
    Cost("GFLOPs", lambda record: record.flops or 0.0, lambda flops: f"{flops / 1e9:.3g}"),
    Cost("CPU h", lambda record: record.cpu_hours, lambda hours: hours_shown(hours)),
    Cost("GPU h", lambda record: record.gpu_hours, lambda hours: hours_shown(hours)),
    Cost("from S3", lambda record: float(record.s3_bytes), lambda size: decimal(round(size))),
)


def hours_shown(hours: float) -> str:
    """Return hours with two decimals, or with the first digit that isn't 0."""
    return f"{hours:.2f}" if hours >= 0.1 else f"{hours:.1g}"


def _costs(records: list[TrialRecord]) -> list[Cost]:
    return [cost for cost in COSTS if any(cost.value(record) for record in records)]


def trial_columns(records: list[TrialRecord]) -> list[str]:
    """Return the headings of the trials' table; its title (`trial_title`) explains the score."""
    costs = [cost.heading for cost in _costs(records)]
    return ["trial", "K", "lr", "schedule", "epochs", records[0].heading, *costs, "ended"]


def trial_title(records: list[TrialRecord], scored_on: str) -> str:
    """Return the title of the trials' table.

    Args:
        records: the records of the trials.
        scored_on: the images that trials are scored on, "validation" or "test".
    """
    task = TASKS[records[0].recipe.task]
    return f"Trials ({task.heading} on {scored_on} {task.unit})"


def trial_rows(records: list[TrialRecord]) -> list[list[str]]:
    """Return one row per trial for the headings of `trial_columns`."""
    costs = _costs(records)
    rows = []
    for record in records:
        recipe = record.recipe
        best = "" if record.best is None else f"{record.best:.3f}"
        schedule = describe(recipe).split(" ", 3)[3]
        spent = [cost.shown(cost.value(record)) for cost in costs]
        cells = [record.number, recipe.num_sub_blocks, f"{recipe.lr:.1e}", schedule, len(record.epochs), best, *spent]
        rows.append([*(str(cell) for cell in cells), how_it_ended(record)])
    return rows


def front_table(front: list[TrialRecord], scored_on: str) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of a Pareto front, by descending score."""
    rows = []
    for record in front:
        recipe = record.recipe
        cells = [
            record.number,
            recipe.num_sub_blocks,
            recipe.blocks,
            f"{(record.flops or 0.0) / 1e9:.3g}",
            f"{record.best:.3f}",
        ]
        rows.append([str(cell) for cell in cells])
    return ["trial", "K", "blocks", "GFLOPs", f"{scored_on} {front[0].heading}"], rows


FRONT = "Pareto front: no other trial has as high a score with as few FLOPs per image of routed inference"


def how_it_ended(record: TrialRecord) -> str:
    """Return a trial's state, with the reason if it was stopped or failed.

    If memory ran out meanwhile, the number of parts in which its batches were computed follows.
    """
    reason = record.reason or ("ASHA" if record.state == "stopped" else None)
    ended = record.state if reason is None else f"{record.state}: {reason}"
    more = record.parts is not None and record.parts > record.recipe.gradient_accumulation
    return f"{ended} (batches in {record.parts} parts)" if more else ended


def shown_metrics(metrics: dict[str, float]) -> dict[str, str]:
    """Return the metrics that tables show and their headings: all but R@K after the second K."""
    recalls = [name for name in metrics if name.startswith("recall_at_")]
    return {name: heading(name) for name in metrics if name not in recalls[2:]}


def score_table(test: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the test scores, the winner first, then the baselines."""
    names = shown_metrics(test["winner"])
    rows = [[who, *(f"{m[name]:.3f}" if name in m else "" for name in names)] for who, m in test.items()]
    return ["", *names.values()], rows


def sentence(text: str) -> str:
    """Return the text with its first letter capitalized."""
    return text[:1].upper() + text[1:]
