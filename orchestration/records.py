"""A trial's record: its configuration and every epoch's figures, kept as JSON in the trial's folder.

Written by the driver after each epoch. The study, the scheduler's rungs, the final table and the report are all built from
records, so an interrupted sweep needs nothing else to go on (and unpickles nothing from its storage).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from dfml import storage
from dfml.recipe import Recipe, recipe_from
from dfml.task import BEST_SCORE, TASKS
from orchestration import layout

LOAD = "router_load_"  # then the router's number and the sub-block's (`dfml.telemetry`)

State = Literal["running", "finished", "stopped", "failed"]


class TrialRecord(BaseModel):
    """What is known of a trial.

    Attributes:
        number: counts from 0; the winner's runs on all training classes count -1, -2, …
        parameters: what was sampled, by Optuna's names; of a winner's run the trial and the epochs that it is of.
        recipe: the whole recipe.
        state: "stopped" means early, by ASHA.
        reason: why it failed, or was stopped where not by ASHA.
        unfit: whether it failed by its own configuration (the loss diverged, memory ran out), so that it would again.
        epochs: each epoch's figures, ascending.
        flops: of an image's inference through the routed path; None where they aren't an objective.
        cpu_hours: hours of CPU cores that its workers held.
        gpu_hours: hours of GPUs that its workers held.
        s3_bytes: bytes that its workers had fetched from S3 when they reported last.
        began: when it was first started, Unix time.
        placed: when its workers first ran, Unix time.
        ended: when it finished, failed or was stopped, Unix time.
        seen: when it was last told of, Unix time.
        paused: seconds between sessions in which it was cut.
        losses: times that it lost workers, or its own process, and went on from its last checkpoint.
        repeated_epochs: epochs that were computed again after such a loss, those that hadn't ended not counted.
    """

    number: int
    parameters: dict[str, Any]
    recipe: dict[str, Any]
    state: State = "running"
    reason: str | None = None
    unfit: bool = False
    epochs: list[dict[str, Any]] = []
    flops: float | None = None
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    s3_bytes: int = 0
    began: float | None = None
    placed: float | None = None
    ended: float | None = None
    seen: float | None = None
    paused: float = 0.0
    losses: int = 0
    repeated_epochs: int = 0

    @property
    def best(self) -> float | None:
        """The best validation score so far: R@1, or top-1."""
        return self.epochs[-1].get(BEST_SCORE) if self.epochs else None

    @property
    def heading(self) -> str:
        """The score's name in tables and lines."""
        return TASKS[self.training_recipe().task].heading

    @property
    def folder(self) -> str:
        return layout.trial_folder(self.number)

    def training_recipe(self) -> Recipe:
        return recipe_from(self.recipe)

    def add(self, figures: dict[str, Any]) -> bool:
        """Take an epoch's figures; False for an epoch that is there already, which a resumed run reports again."""
        if self.epochs and figures["epoch"] <= self.epochs[-1]["epoch"]:
            return False
        self.epochs.append(figures)
        return True

    def save(self, sweep: str) -> None:
        storage.write(_place(sweep, self.folder), self.model_dump_json(indent=1).encode())


def _place(sweep: str, folder: str) -> str:
    return storage.join(sweep, layout.TRIALS, folder, "record.json")


def load_record(sweep: str, folder: str) -> TrialRecord | None:
    place = _place(sweep, folder)
    return TrialRecord.model_validate_json(storage.read(place)) if storage.exists(place) else None


def load_records(sweep: str) -> list[TrialRecord]:
    """All trials' records in the order of their numbers, which have no gaps."""
    records: list[TrialRecord] = []
    while record := load_record(sweep, layout.trial_folder(len(records))):
        records.append(record)
    return records


def describe(recipe: Recipe) -> str:
    """The searched essentials in a few words: K=3 lr 6.0e-4 step(2, ×0.5)."""
    schedule = recipe.schedule
    values = {"step": "step", "gamma": "×"}
    inner = ", ".join(
        f"{values[name] if name == 'gamma' else ''}{value:.3g}" for name, value in schedule if name in values
    )
    return f"K={recipe.routers} lr {recipe.lr:.1e} {schedule.kind}{f'({inner})' if inner else ''}"


def router_loads(figures: dict[str, Any]) -> list[list[float]]:
    """Of an epoch's figures, by router (two a ViT block) the share of its tokens through each sub-block: R rows of K; empty without routers."""
    found: dict[int, dict[int, float]] = {}
    for name, value in figures.items():
        if name.startswith(LOAD):
            router, sub_block = map(int, name.removeprefix(LOAD).split("_"))
            found.setdefault(router, {})[sub_block] = value
    return [[value for _, value in sorted(row.items())] for _, row in sorted(found.items())]
