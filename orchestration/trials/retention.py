"""What stays of a trial: its record, its best and last checkpoint; and what is cleared when it has ended.

A trial that is killed while a checkpoint is on its way leaves a part of it. Ray's snapshot of a run names the checkpoints that are
whole; no other is ever resumed from, and here the others are removed.
"""

from __future__ import annotations

import json
import re

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from dfml import storage
from orchestration import layout

CHECKPOINT = re.compile(r"checkpoint_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d+")  # as Ray names a checkpoint's folder
SNAPSHOT = CHECKPOINT_MANAGER_SNAPSHOT_FILENAME


def clear_partial(sweep: str, trial: str) -> list[str]:
    """Remove what an ended trial doesn't need: checkpoints that never were whole, and the state within an epoch.

    Args:
        sweep: its folder or URI.
        trial: the trial's folder within.

    Returns:
        the names of the folders removed.
    """
    place = storage.join(sweep, layout.TRIALS, trial)
    whole = whole_checkpoints(place)
    removed = [name for name in storage.folders(place) if name not in whole and _is_ours(name)]
    for name in removed:
        storage.delete_folder(storage.join(place, name))
    return removed


def whole_checkpoints(place: str) -> set[str]:
    """The names of a run's checkpoint folders that are whole.

    Args:
        place: the run's folder or URI.
    """
    snapshot = storage.join(place, SNAPSHOT)
    if not storage.exists(snapshot):
        return set()
    state = json.loads(storage.read(snapshot))
    results = [
        *state["checkpoint_results"],
        *([state["latest_checkpoint_result"]] if state["latest_checkpoint_result"] else []),
    ]
    return {result["checkpoint_dir_name"] for result in results}


def _is_ours(name: str) -> bool:
    """Whether Ray or a trial's worker made the folder: another's is never removed."""
    return CHECKPOINT.fullmatch(name) is not None or name == layout.UNFINISHED
