"""What came of a run of the winner: stored as `outcome.json` in its folder, last of all that it writes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dfml import storage
from orchestration import layout


class Outcome(BaseModel):
    """A model trained on all training classes, and its scores on the test classes.

    Attributes:
        trial: whose recipe it is.
        seed: of this run.
        epochs: after which the model is as it was scored.
        test: metrics by name.
        baselines: the same of what the model is compared with; of the first seed's run only.
        retrievals: queries with their nearest images, as rows of the splits they are in; likewise (see `examples`).
        routers: where in the backbone each router is, in the order of the network; likewise.
    """

    trial: int
    seed: int
    epochs: int
    test: dict[str, float]
    baselines: dict[str, dict[str, float]] = {}
    retrievals: list[dict[str, Any]] = []
    routers: list[str] = []

    def save(self, run: str) -> None:
        storage.write(storage.join(run, layout.OUTCOME), self.model_dump_json(indent=1).encode())


def load_outcome(run: str) -> Outcome | None:
    """The outcome of the run in the folder; None while it hasn't ended."""
    place = storage.join(run, layout.OUTCOME)
    return Outcome.model_validate_json(storage.read(place)) if storage.exists(place) else None
