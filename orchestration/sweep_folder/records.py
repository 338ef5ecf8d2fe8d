"""A trial's record: its configuration and the metrics of every epoch, as JSON in its folder.

The driver writes the record after each epoch. The study, the scheduler's rungs, the final table and
the report are all built from records, so an interrupted sweep needs nothing else to resume (and
unpickles nothing from its storage).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel

from dfml import storage
from dfml.recipe import Recipe
from dfml.task import BEST_SCORE, TASKS
from orchestration.sweep_folder import layout

State = Literal["running", "finished", "stopped", "failed"]
Kind = Literal["trial", "winner"]


class TrialRecord(BaseModel):
    """The record of a trial of the search, or of a run of the winner on all training classes.

    Attributes:
        kind: "trial", or "winner" for a run of the winner.
        number: its number among the records of its kind, from 0.
        parameters: the sampled values by Optuna's names; for a winner's run its trial and epochs.
        recipe: the whole recipe.
        state: its state; "stopped" means stopped early, by ASHA or by the budget.
        reason: the reason why it failed, or was stopped if not by ASHA.
        unfit: whether its own recipe made it fail (the loss diverged, memory ran out), so that the
            search should avoid it.
        epochs: each epoch's metrics, ascending (see `dfml.train.Training.epochs`).
        flops: FLOPs per image of inference through the routed path; None if not an objective.
        cpu_hours: hours of CPU cores that its workers held.
        gpu_hours: hours of GPUs that its workers held.
        s3_bytes: bytes that its workers had fetched from S3 at their last report.
        began: Unix time of its first start.
        workers_started: Unix time at which its workers first ran.
        ended: Unix time at which it finished, failed or was stopped.
        seen: Unix time of its last report.
        paused: seconds between the sessions of the sweep that interrupted it.
        restarts: number of times that its workers or its own process were lost, or that memory ran
            out, and it resumed from its last checkpoint.
        repeated_epochs: finished epochs that were computed again after a restart.
        parts: parts of a batch on each worker, as many as the recipe's `gradient_accumulation`, or
            more if memory ran out; None: its workers haven't run.
        loader_workers: processes per worker that decode images, fewer if the host's memory ran out.
    """

    kind: Kind = "trial"
    number: int
    parameters: dict[str, Any]
    recipe: Recipe
    state: State = "running"
    reason: str | None = None
    unfit: bool = False
    epochs: list[dict[str, Any]] = []
    flops: float | None = None
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    s3_bytes: int = 0
    began: float | None = None
    workers_started: float | None = None
    ended: float | None = None
    seen: float | None = None
    paused: float = 0.0
    restarts: int = 0
    repeated_epochs: int = 0
    parts: int | None = None
    loader_workers: int | None = None

    @property
    def best(self) -> float | None:
        """Return the best validation score so far: R@1, or top-1."""
        return self.epochs[-1].get(BEST_SCORE) if self.epochs else None

    @property
    def best_epoch(self) -> int:
        """Return the epoch of the best validation score; 0 before there is one."""
        return int(self.epochs[-1].get("best_epoch", 0)) if self.epochs else 0

    @property
    def heading(self) -> str:
        """Return the score's name in tables and messages."""
        return TASKS[self.recipe.task].heading

    @property
    def folder(self) -> str:
        """Return the name of its folder, which no other record has."""
        return layout.trial_folder(self.number) if self.kind == "trial" else layout.winner_folder(self.number)

    @property
    def label(self) -> str:
        """Return its name among metrics: 3, winner, winner-1."""
        return str(self.number) if self.kind == "trial" else self.folder

    @property
    def title(self) -> str:
        """Return its name in a sentence: "trial 3", "winner", "winner, seed 7"."""
        if self.kind == "trial":
            return f"trial {self.number}"
        return f"winner, seed {self.recipe.seed}" if self.number else "winner"

    def add(self, metrics: dict[str, Any]) -> bool:
        """Append an epoch's metrics; return False for an epoch that a resumed run repeats."""
        if self.epochs and metrics["epoch"] <= self.epochs[-1]["epoch"]:
            return False
        self.epochs.append(metrics)
        return True

    def save(self, sweep: str) -> None:
        """Write the record to its folder."""
        storage.write(_uri(sweep, self.folder), self.model_dump_json(indent=1).encode())


def _uri(sweep: str, folder: str) -> str:
    return storage.join(sweep, layout.TRIALS, folder, "record.json")


def load_record(sweep: str, folder: str) -> TrialRecord | None:
    """Read the record in a trial's folder; None if there is none."""
    uri = _uri(sweep, folder)
    return TrialRecord.model_validate_json(storage.read(uri)) if storage.exists(uri) else None


def load_records(sweep: str) -> list[TrialRecord]:
    """Read the records of all trials, in order of number; there are no gaps."""
    return _load_all(sweep, layout.trial_folder)


def load_winner_records(sweep: str) -> list[TrialRecord]:
    """Read the records of the runs of all winners, current and earlier, in order of number."""
    return _load_all(sweep, layout.winner_folder)


def _load_all(sweep: str, folder_of: Callable[[int], str]) -> list[TrialRecord]:
    records: list[TrialRecord] = []
    while record := load_record(sweep, folder_of(len(records))):
        records.append(record)
    return records


def describe(recipe: Recipe) -> str:
    """Return a short description of a recipe, such as K=3 lr 6.0e-4 step(2, ×0.5)."""
    schedule = recipe.schedule
    values = {"step": "step", "gamma": "×"}
    inner = ", ".join(
        f"{values[name] if name == 'gamma' else ''}{value:.3g}" for name, value in schedule if name in values
    )
    return f"K={recipe.num_sub_blocks} lr {recipe.lr:.1e} {schedule.kind}{f'({inner})' if inner else ''}"
