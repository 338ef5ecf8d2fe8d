"""Checkpoints within a long epoch, kept beside Ray's own, which come with the figures of a finished epoch only.

In the trial's folder: `unfinished/<epoch>_<step>/`, and `unfinished/latest.json`, written last, which names the folder that is whole.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dfml import storage
from orchestration import layout
from orchestration.trials.scratch import scratch

if TYPE_CHECKING:
    from dfml.train import Training

LATEST = "latest.json"


class UnfinishedEpoch:
    """The state of the epoch that a trial is in.

    Args:
        trial: the trial's folder or URI.
    """

    def __init__(self, trial: str) -> None:
        self._place = storage.join(trial, layout.UNFINISHED)

    def keep(self, training: Training) -> None:
        """Store how far the epoch is; then drop what was stored before. For one rank to call."""
        assert training.unfinished is not None
        older = self._latest()
        folder = f"{training.epoch + 1:04d}_{training.unfinished.step:08d}"
        with scratch() as directory:
            training.save(directory)
            storage.upload(directory, storage.join(self._place, folder))
            files = sorted(path.name for path in directory.iterdir())
        latest = {"after_epoch": training.epoch, "folder": folder, "files": files}
        storage.write(storage.join(self._place, LATEST), json.dumps(latest).encode())
        if older and older["folder"] != folder:
            self._delete(older)

    def resume(self, training: Training) -> None:
        """Go on within the epoch after `training`'s last finished one, where a part of it is stored. For all ranks to call."""
        latest = self._latest()
        if latest is None or latest["after_epoch"] != training.epoch:
            return
        with scratch() as directory:
            for file in latest["files"]:
                content = storage.read(storage.join(self._place, latest["folder"], file))
                (directory / file).write_bytes(content)
            training.load(directory)

    def reached(self) -> str | None:
        """Names how far the epoch was stored; None where none is. Names of what comes later are others."""
        latest = self._latest()
        return latest["folder"] if latest else None

    def forget(self) -> None:
        """The epoch has ended. For one rank to call."""
        if latest := self._latest():
            storage.delete(storage.join(self._place, LATEST))
            self._delete(latest)

    def _latest(self) -> dict[str, Any] | None:
        place = storage.join(self._place, LATEST)
        latest: dict[str, Any] | None = json.loads(storage.read(place)) if storage.exists(place) else None
        return latest

    def _delete(self, latest: dict[str, Any]) -> None:
        for file in latest["files"]:
            storage.delete(storage.join(self._place, latest["folder"], file))
        storage.delete_empty(storage.join(self._place, latest["folder"]))
