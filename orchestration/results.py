"""The outcome of a sweep: read from the records and from the winner's score, stored as `report/results.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dfml import storage
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


TRIAL_COLUMNS = ["trial", "K", "lr", "schedule", "epochs", "validation R@1", "ended"]


def trial_rows(records: list[TrialRecord]) -> list[list[str]]:
    """The trials as rows of `TRIAL_COLUMNS`."""
    rows = []
    for record in records:
        recipe = record.training_recipe()
        best = "" if record.best is None else f"{record.best:.3f}"
        ended = record.state if record.reason is None else f"{record.state}: {record.reason}"
        schedule = describe(recipe).split(" ", 3)[3]
        cells = [record.number, recipe.routers, f"{recipe.lr:.1e}", schedule, len(record.epochs), best, ended]
        rows.append([str(cell) for cell in cells])
    return rows


def show(results: Results, console: Console) -> None:
    """Print the trials, the winner and its score beside the baselines'."""
    marked = [record.number for record in results.trials].index(results.winner)
    console.table("Trials (R@1 on validation classes)", TRIAL_COLUMNS, trial_rows(results.trials), marked)
    rows = [
        [name, f"{m['recall_at_1']:.3f}", f"{m['recall_at_2']:.3f}", f"{m['map_at_r']:.3f}"]
        for name, m in results.test.items()
    ]
    title = f"Test classes (trial {results.winner} retrained on all training classes, {results.winner_epochs} epochs)"
    console.table(title, ["", "R@1", "R@2", "MAP@R"], rows, 0)
