"""The results of a sweep, stored as `report/results.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from rich.filesize import decimal

from dfml import storage
from dfml.protocol import PROTOCOLS, Protocol
from dfml.task import TASKS, Task
from orchestration.callbacks.console import Console
from orchestration.report.reproductions import Interval, Reproduction, in_words, reproduction_table
from orchestration.report.tables import (
    FRONT,
    front_table,
    score_table,
    trial_columns,
    trial_rows,
    trial_title,
)
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import TrialRecord


class Results(BaseModel):
    """The results that the console and the report show.

    Attributes:
        winner: the number of the winning trial.
        winner_epochs: the number of epochs after which its model was scored.
        test: the metrics on the test classes of the winner (first seed) and of each baseline.
        test_evaluations: the number of this sweep's evaluations on the test classes.
        reproductions: the winner with each seed, the first one included.
        interval: each metric's interval over the seeds; empty for one seed.
        front: the numbers of the trials on the Pareto front of score and FLOPs, by descending
            score; empty if FLOPs aren't an objective.
        retrievals: queries with their nearest images, as rows of their splits.
        router_names: the routers' positions in the winner's backbone, in the order of the network.
        runs: the records of the winner's runs on all training classes, by seed.
        earlier_runs: the records of runs of earlier winners, before the sweep was extended.
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
    reproductions: list[Reproduction]
    interval: dict[str, Interval]
    front: list[int]
    retrievals: list[dict[str, Any]]
    router_names: list[str]
    runs: list[TrialRecord]
    earlier_runs: list[TrialRecord]

    def is_copy(self, record: TrialRecord) -> bool:
        """Return whether a run trained nothing, but scored the winning trial's model.

        Under protocol `paper` the run with the winning trial's seed does so.
        """
        return PROTOCOLS[self.protocol].scores_on_test and record.kind == "winner" and record.recipe == self.won.recipe

    @property
    def task(self) -> Task:
        return TASKS[self.trials[0].recipe.task]

    @property
    def scored_on(self) -> str:
        """Return the images that a trial's score belongs to: "validation" or "test"."""
        return PROTOCOLS[self.protocol].scored_on

    @property
    def marked(self) -> int:
        """Return the winner's row in the table of trials."""
        return [record.number for record in self.trials].index(self.winner)

    @property
    def won(self) -> TrialRecord:
        """Return the winning trial."""
        return self.trials[self.marked]

    def front_trials(self) -> list[TrialRecord]:
        by_number = {record.number: record for record in self.trials}
        return [by_number[number] for number in self.front]

    def cost_in_words(self) -> str:
        """Return a phrase on the total cost of trials and runs; empty if nothing was counted."""
        takers: list[TrialRecord | Reproduction] = [*self.trials, *self.reproductions, *self.earlier_runs]
        hours = {"CPU": sum(each.cpu_hours for each in takers), "GPU": sum(each.gpu_hours for each in takers)}
        size = sum(each.s3_bytes for each in takers)
        parts = [f"{spent:.3g} {kind} hours" for kind, spent in hours.items() if spent]
        parts += [f"{decimal(size)} from S3"] if size else []
        return f"trials and the winner's runs took {', '.join(parts)}" if parts else ""

    def protocol_in_words(self) -> Protocol:
        return PROTOCOLS[self.protocol].of(self.task)

    def save(self) -> None:
        storage.write(results_uri(self.sweep), self.model_dump_json(indent=1).encode())


def results_uri(sweep: str) -> str:
    return storage.join(sweep, layout.REPORT, layout.RESULTS)


def load_results(sweep: str) -> Results | None:
    """Read the results of a sweep; None if it hasn't ended."""
    uri = results_uri(sweep)
    return Results.model_validate_json(storage.read(uri)) if storage.exists(uri) else None


def forget_results(sweep: str) -> None:
    """Delete the results and the page of a sweep that continues."""
    storage.delete(results_uri(sweep))
    storage.delete(storage.join(sweep, layout.REPORT, layout.PAGE))


def best_trial(records: list[TrialRecord]) -> TrialRecord | None:
    """Return the trial with the highest score, the earliest among equals; None if all failed."""
    scored = [record for record in records if record.best is not None and record.state != "failed"]
    return max(scored, key=lambda record: (record.best or 0.0, -record.number)) if scored else None


def show(results: Results, console: Console) -> None:
    """Print the trials, the test scores of the winner and of the baselines, cost and protocol."""
    task = results.task
    protocol = results.protocol_in_words()
    scored_on = results.scored_on
    console.table(
        trial_title(results.trials, scored_on),
        trial_columns(results.trials),
        trial_rows(results.trials),
        results.marked,
    )
    if results.front:
        console.table(FRONT, *front_table(results.front_trials(), scored_on))
    title = f"Test {task.unit} (trial {results.winner} {protocol.winner}, {results.winner_epochs} epochs)"
    console.table(title, *score_table(results.test), 0)
    if len(results.reproductions) > 1:
        console.table(
            in_words(results.reproductions, results.protocol),
            *reproduction_table(results.reproductions, results.interval),
        )
    if cost := results.cost_in_words():
        console.print(cost)
    console.print(
        f"protocol {results.protocol}: {protocol.rule} "
        f"The test images were evaluated {results.test_evaluations} time(s)"
    )
