"""What stays of a trial: its record, its best and last checkpoint; and what is cleared when it has ended.

A trial that is killed while a checkpoint is on its way leaves a part of it. Ray's snapshot of a run names the checkpoints that are
whole; no other is ever resumed from, and here the others are removed.
"""

from __future__ import annotations

import json

from pyarrow import fs
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from dfml import storage
from orchestration import layout

CHECKPOINT = "checkpoint_"  # begins the names of Ray's checkpoint folders
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
    system, path = fs.FileSystem.from_uri(place)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    folders = [info for info in found if info.type == fs.FileType.Directory]
    removed = [info for info in folders if info.base_name not in whole and _removable(info.base_name)]
    for info in removed:
        system.delete_dir(info.path)
    return sorted(info.base_name for info in removed)


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


def _removable(name: str) -> bool:
    return name.startswith(CHECKPOINT) or name == layout.UNFINISHED
