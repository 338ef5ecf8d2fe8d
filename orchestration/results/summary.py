"""The outcome of a sweep: read from the records and from the winner's score, stored as `report/results.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dfml import storage
from dfml.task import TASKS, Task
from orchestration import layout
from orchestration.console import Console
from orchestration.records import TrialRecord
from orchestration.results.interval import Interval
from orchestration.results.protocols import PROTOCOLS, Protocol
from orchestration.results.reproductions import Reproduction, in_words, reproduction_table
from orchestration.results.tables import (
    FRONT,
    byte_size,
    front_table,
    score_table,
    trial_columns,
    trial_rows,
    trial_title,
)


class Results(BaseModel):
    """What the table and the report show.

    Attributes:
        winner: number of the winning trial.
        winner_epochs: epochs after which its model was scored.
        test: metrics on the test classes, for the winner, with the first seed, and each baseline.
        test_evaluations: how often this sweep looked at the test classes.
        reproductions: the winner with each seed, the first one's scores among them.
        interval: of each metric over the seeds; empty for one seed.
        front: numbers of the trials on the Pareto front of score and FLOPs, by falling score; empty where FLOPs aren't an objective.
        retrievals: queries with their nearest images, as rows of the test split, or of queries and gallery.
        routers: where in the winner's backbone each router is; empty in results of before there were names.
        runs: records of the winner's runs on all training classes, by seed; likewise.
        earlier_runs: those of winners that a sweep had before it was extended.
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
    routers: list[str] = []
    runs: list[TrialRecord] = []
    earlier_runs: list[TrialRecord] = []

    def is_copy(self, record: TrialRecord) -> bool:
        """Whether it is a run that trained nothing, for by protocol `paper` the winning trial is what is scored with its seed."""
        return self.protocol == "paper" and record.number < 0 and record.recipe == self.won.recipe

    @property
    def task(self) -> Task:
        return TASKS[self.trials[0].training_recipe().task]

    @property
    def scored_on(self) -> str:
        """What a trial's score is of: "validation", or "test" by protocol `paper`."""
        return "test" if self.protocol == "paper" else "validation"

    @property
    def marked(self) -> int:
        """The winner's row in the table of trials."""
        return [record.number for record in self.trials].index(self.winner)

    @property
    def won(self) -> TrialRecord:
        """The winning trial."""
        return self.trials[self.marked]

    def front_trials(self) -> list[TrialRecord]:
        by_number = {record.number: record for record in self.trials}
        return [by_number[number] for number in self.front]

    def cost_in_words(self) -> str:
        """What trials and the winner's runs took together; empty where nothing was counted."""
        takers: list[TrialRecord | Reproduction] = [*self.trials, *self.reproductions, *self.earlier_runs]
        hours = {"CPU": sum(each.cpu_hours for each in takers), "GPU": sum(each.gpu_hours for each in takers)}
        size = sum(each.s3_bytes for each in takers)
        parts = [f"{spent:.3g} {kind} hours" for kind, spent in hours.items() if spent]
        parts += [f"{byte_size(size)} from S3"] if size else []
        return f"trials and the winner's runs took {', '.join(parts)}" if parts else ""

    def protocol_in_words(self) -> Protocol:
        return PROTOCOLS[self.protocol].of(self.task)

    def save(self) -> None:
        storage.write(results_place(self.sweep), self.model_dump_json(indent=1).encode())


def results_place(sweep: str) -> str:
    return storage.join(sweep, layout.REPORT, layout.RESULTS)


def load_results(sweep: str) -> Results | None:
    """The outcome of a sweep that has ended; None while it hasn't."""
    place = results_place(sweep)
    return Results.model_validate_json(storage.read(place)) if storage.exists(place) else None


def forget_results(sweep: str) -> None:
    """The sweep goes on: it has no outcome yet, and a report of what it was."""
    storage.delete(results_place(sweep))
    storage.delete(storage.join(sweep, layout.REPORT, layout.PAGE))


def best_trial(records: list[TrialRecord]) -> TrialRecord | None:
    """The trial with the highest validation score, the earlier of equals; None if all failed."""
    scored = [record for record in records if record.best is not None and record.state != "failed"]
    return max(scored, key=lambda record: (record.best or 0.0, -record.number)) if scored else None


def show(results: Results, console: Console) -> None:
    """Print the trials, the winner and its score beside the baselines'."""
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
        console.say(cost)
    console.say(
        f"protocol {results.protocol}: {protocol.rule} The test images were looked at {results.test_evaluations} time(s)"
    )
