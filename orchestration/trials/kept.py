"""The checkpoints that Ray Train keeps of a run: which is the best, and its files.

Read from the list that Ray keeps in the run's folder, which is there while the run goes on and after it has ended.
`ray.train.Result.from_path` reads the same, but not while it is being written.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

from dfml import storage
from dfml.checkpoint import FIGURES, OPTIMIZER, WEIGHTS
from dfml.task import SCORE
from orchestration.trials.retention import SNAPSHOT

PATIENCE = 60.0  # seconds for Ray to enter a checkpoint that has been reported


class Kept(NamedTuple):
    """A checkpoint: its folder or URI, after which epoch it was made, and that epoch's score."""

    place: str
    epoch: int
    score: float


def kept_checkpoints(run: str) -> list[Kept]:
    """What is kept of a run now. Raises FileNotFoundError: nothing has been reported."""
    entries = json.loads(storage.read(storage.join(run, SNAPSHOT)))["checkpoint_results"]
    return [
        Kept(
            storage.join(run, entry["checkpoint_dir_name"]),
            int(entry["metrics"]["epoch"]),
            float(entry["metrics"][SCORE]),
        )
        for entry in entries
    ]


def fetch_best(run: str, last: int, directory: Path, patience: float = PATIENCE) -> Kept:
    """Copy the checkpoint with the highest score, of equals the one that Ray keeps, which is the later.

    Args:
        run: the run's folder or URI.
        last: the last epoch that it reported; as long as Ray hasn't entered that, it is waited for.
        directory: a local one, for `Training.load`.
        patience: seconds to wait.

    Raises:
        TimeoutError: Ray has no checkpoint of that epoch.
    """
    end = time.monotonic() + patience
    while True:
        if best := _fetch_best(run, last, directory):
            return best
        if time.monotonic() > end:
            raise TimeoutError(
                f"{run} has no checkpoint of epoch {last} that can be read, {patience:.0f} s after it was reported"
            )
        time.sleep(0.2)


def _fetch_best(run: str, last: int, directory: Path) -> Kept | None:
    try:
        kept = kept_checkpoints(run)
        if max(each.epoch for each in kept) < last:
            return None
        best = max(kept, key=lambda each: (each.score, each.epoch))
        for file in (WEIGHTS, OPTIMIZER, FIGURES):
            (directory / file).write_bytes(storage.read(storage.join(best.place, file)))
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # the list is being written, or names what has just been replaced
    return best
