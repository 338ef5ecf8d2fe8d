"""Evaluations on the test classes: their number in a sweep, and the scores of the winner's runs.

Each run counts its evaluations in its own folder, where no other run writes: concurrent trials
can't overwrite each other's counts, even on S3, which has no atomic increment. The sweep's count
is their sum. The outcome of a winner's run is `outcome.json` in its folder, written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from dfml import storage
from orchestration.sweep_folder import layout


class Outcome(BaseModel):
    """A model trained on all training classes, and its scores on the test classes.

    Attributes:
        trial: the number of the trial with the same recipe.
        seed: the run's seed.
        epochs: the number of epochs after which the model was scored.
        test: the metrics by name.
        baselines: each baseline's metrics; only the first seed's run has these and the next two.
        retrievals: queries with their nearest images, as rows of their splits (see `retrievals`).
        router_names: the routers' positions in the backbone, in the order of the network.
    """

    trial: int
    seed: int
    epochs: int
    test: dict[str, float]
    baselines: dict[str, dict[str, float]] = {}
    retrievals: list[dict[str, Any]] = []
    router_names: list[str] = []

    def save(self, run: str) -> None:
        """Write the outcome to the run's folder."""
        storage.write(storage.join(run, layout.OUTCOME), self.model_dump_json(indent=1).encode())


def load_outcome(run: str) -> Outcome | None:
    """Read the outcome in a run's folder; None if the run hasn't ended."""
    uri = storage.join(run, layout.OUTCOME)
    return Outcome.model_validate_json(storage.read(uri)) if storage.exists(uri) else None


def count_evaluation(run: str) -> None:
    """Count an evaluation on the test classes *before* it starts: an interrupted one counts too.

    One rank must call it.

    Args:
        run: the folder or URI of the run that makes the evaluation.
    """
    storage.write(_counter(run), json.dumps(_count(run) + 1).encode())


def evaluations(sweep: str, folders: Iterable[str]) -> int:
    """Return the total number of evaluations of some runs.

    Args:
        sweep: the sweep's folder or URI.
        folders: the folder names of trials and winner's runs; one without a counter counts 0.
    """
    return sum(_count(storage.join(sweep, layout.TRIALS, folder)) for folder in folders)


def _counter(run: str) -> str:
    return storage.join(run, layout.TEST_EVALUATIONS)


def _count(run: str) -> int:
    counter = _counter(run)
    return int(json.loads(storage.read(counter))) if storage.exists(counter) else 0
