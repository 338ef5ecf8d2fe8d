"""The outcome of a sweep: read from the records and from the winner's score, stored as `report/results.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dfml import storage
from dfml.task import TASKS, heading
from orchestration import layout
from orchestration.console import Console
from orchestration.records import TrialRecord, describe


class Results(BaseModel):
    """What the table and the report show.

    Attributes:
        winner: number of the winning trial.
        winner_epochs: epochs after which it was at its best; so long was it retrained.
        test: metrics on the test classes, for the winner and each baseline.
        test_evaluations: how often this sweep looked at the test classes.
        retrievals: queries with their nearest images, as rows of the test split.
    """

    sweep: str
    data: str
    protocol: str
    seed: int
    trials: list[TrialRecord]
    winner: int
    winner_epochs: int
    test: dict[str, dict[str, float]]
    test_evaluations: int
    retrievals: list[dict[str, Any]]

    def save(self) -> None:
        storage.write(results_place(self.sweep), self.model_dump_json(indent=1).encode())


def results_place(sweep: str) -> str:
    return storage.join(sweep, layout.REPORT, layout.RESULTS)


def load_results(sweep: str) -> Results | None:
    """The outcome of a sweep that has ended; None while it hasn't."""
    place = results_place(sweep)
    return Results.model_validate_json(storage.read(place)) if storage.exists(place) else None


def best_trial(records: list[TrialRecord]) -> TrialRecord | None:
    """The trial with the highest validation score, the earlier of equals; None if all failed."""
    scored = [record for record in records if record.best is not None and record.state != "failed"]
    return max(scored, key=lambda record: (record.best or 0.0, -record.number)) if scored else None


def trial_columns(records: list[TrialRecord]) -> list[str]:
    return ["trial", "K", "lr", "schedule", "epochs", f"validation {records[0].heading}", "ended"]


def trial_rows(records: list[TrialRecord]) -> list[list[str]]:
    """The trials as rows of `trial_columns`."""
    rows = []
    for record in records:
        recipe = record.training_recipe()
        best = "" if record.best is None else f"{record.best:.3f}"
        ended = record.state if record.reason is None else f"{record.state}: {record.reason}"
        schedule = describe(recipe).split(" ", 3)[3]
        cells = [record.number, recipe.routers, f"{recipe.lr:.1e}", schedule, len(record.epochs), best, ended]
        rows.append([str(cell) for cell in cells])
    return rows


def shown_metrics(metrics: dict[str, float]) -> dict[str, str]:
    """Of a test's metrics those that tables show, with their headings: all but the R@K after the second."""
    recalls = [name for name in metrics if name.startswith("recall_at_")]
    return {name: heading(name) for name in metrics if name not in recalls[2:]}


def show(results: Results, console: Console) -> None:
    """Print the trials, the winner and its score beside the baselines'."""
    marked = [record.number for record in results.trials].index(results.winner)
    task = TASKS[results.trials[0].training_recipe().task]
    title = f"Trials ({task.heading} on {task.held_out})"
    console.table(title, trial_columns(results.trials), trial_rows(results.trials), marked)
    names = shown_metrics(results.test["winner"])
    rows = [[who, *(f"{m[name]:.3f}" if name in m else "" for name in names)] for who, m in results.test.items()]
    title = f"Test {task.unit} (trial {results.winner} retrained on all training {task.unit}, {results.winner_epochs} epochs)"
    console.table(title, ["", *names.values()], rows, 0)
