"""Checkpoints of a trial: after epochs (kept by Ray Train), within an epoch, and leftover ones.

Ray keeps the best and the last epoch's checkpoint, and stores a snapshot of their list in the run's
folder. Within a long epoch the workers keep their own checkpoint, `mid_epoch/<epoch>_<step>/` in
the trial's folder; `mid_epoch/latest.json`, written last, names the folder that is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from pyarrow.fs import copy_files

from dfml import storage
from dfml.task import SCORE
from orchestration.cluster.ray_internals import SNAPSHOT
from orchestration.sweep_folder import layout

if TYPE_CHECKING:
    from dfml.train import Training

# Ray's folder names.
CHECKPOINT = re.compile(r"checkpoint_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d+")
LATEST = "latest.json"
LIST_TIMEOUT_SECONDS = 60.0  # for Ray to list a checkpoint that has been reported
TEMPDIR_PREFIX = "dfml-worker-"


def whole_checkpoints(run: str) -> set[str]:
    """Return the names of a run's complete checkpoint folders."""
    if not storage.exists(storage.join(run, SNAPSHOT)):
        return set()
    state = _snapshot(run)
    latest = state["latest_checkpoint_result"]
    return {entry["checkpoint_dir_name"] for entry in [*state["checkpoint_results"], *([latest] if latest else [])]}


def _snapshot(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.read(storage.join(run, SNAPSHOT)))
    return found


def load_best(training: Training, run: str, last: int) -> None:
    """Load the checkpoint with the highest score; of equals the later, which Ray keeps.

    All ranks must call it. (`ray.train.get_all_reported_checkpoints` asks the controller's actor,
    but here the controller runs in the trial's own process.)

    Args:
        training: loads it.
        run: folder or URI of this run or of one that has ended.
        last: the last epoch that the run reported; this waits until Ray has listed it.

    Raises:
        TimeoutError: Ray has no checkpoint of that epoch.
    """
    end = time.monotonic() + LIST_TIMEOUT_SECONDS
    while not (kept := _kept(run)) or max(metrics["epoch"] for _, metrics in kept) < last:
        if time.monotonic() > end:
            raise TimeoutError(
                f"{run} has no checkpoint of epoch {last}, {LIST_TIMEOUT_SECONDS:.0f} s after it was reported"
            )
        time.sleep(0.2)
    checkpoint, _ = max(kept, key=lambda item: (item[1][SCORE], item[1]["epoch"]))
    load(training, checkpoint)


def _kept(run: str) -> list[tuple[ray.train.Checkpoint, dict[str, Any]]]:
    """Return the checkpoints that Ray lists for a run, with their metrics."""
    if not storage.exists(storage.join(run, SNAPSHOT)):
        return []
    return ray.train.Result.from_path(run).best_checkpoints or []


def load(training: Training, checkpoint: ray.train.Checkpoint) -> None:
    """Load one of Ray's checkpoints."""
    # `as_directory` would make all ranks of a node write and read the same folder.
    with worker_tempdir() as directory:
        copy_files(checkpoint.path, str(directory), source_filesystem=checkpoint.filesystem)
        training.load(directory)


def clear_partial(sweep: str, trial: str) -> list[str]:
    """Remove an ended trial's partial checkpoints and its checkpoint within an epoch.

    A trial that is killed while it uploads a checkpoint leaves a partial one, from which no trial
    resumes. Folders that neither Ray nor a worker made stay.

    Args:
        sweep: the sweep's folder or URI.
        trial: the name of the trial's folder.

    Returns:
        The names of the removed folders.
    """
    run = storage.join(sweep, layout.TRIALS, trial)
    whole = whole_checkpoints(run)
    ours = [name for name in storage.folders(run) if CHECKPOINT.fullmatch(name) or name == layout.MID_EPOCH]
    removed = [name for name in ours if name not in whole]
    for name in removed:
        storage.delete_folder(storage.join(run, name))
    return removed


class MidEpochCheckpoint:
    """The checkpoint within a trial's current epoch.

    Args:
        trial: the trial's folder or URI.
    """

    def __init__(self, trial: str) -> None:
        self._uri = storage.join(trial, layout.MID_EPOCH)

    def keep(self, training: Training) -> None:
        """Store the epoch's state, then remove the previous checkpoint. One rank must call it."""
        assert training.mid_epoch is not None
        older = self._latest()
        folder = f"{training.epoch + 1:04d}_{training.mid_epoch.step:08d}"
        with worker_tempdir() as directory:
            training.save(directory)
            storage.upload(directory, storage.join(self._uri, folder))
            files = sorted(path.name for path in directory.iterdir())
        latest = {"after_epoch": training.epoch, "folder": folder, "files": files}
        storage.write(storage.join(self._uri, LATEST), json.dumps(latest).encode())
        if older and older["folder"] != folder:
            self._delete(older)

    def resume(self, training: Training) -> None:
        """Resume within the epoch after `training`'s last one, if a checkpoint of it exists.

        All ranks must call it.
        """
        latest = self._latest()
        if latest is None or latest["after_epoch"] != training.epoch:
            return
        with worker_tempdir() as directory:
            for file in latest["files"]:
                content = storage.read(storage.join(self._uri, latest["folder"], file))
                (directory / file).write_bytes(content)
            training.load(directory)

    def reached(self) -> str | None:
        """Return the checkpoint's name, unique within the trial; None if there is none."""
        latest = self._latest()
        return latest["folder"] if latest else None

    def forget(self) -> None:
        """Remove the checkpoint at the end of the epoch. One rank must call it."""
        if latest := self._latest():
            storage.delete(storage.join(self._uri, LATEST))
            self._delete(latest)

    def _latest(self) -> dict[str, Any] | None:
        uri = storage.join(self._uri, LATEST)
        latest: dict[str, Any] | None = json.loads(storage.read(uri)) if storage.exists(uri) else None
        return latest

    def _delete(self, latest: dict[str, Any]) -> None:
        for file in latest["files"]:
            storage.delete(storage.join(self._uri, latest["folder"], file))
        storage.delete_empty(storage.join(self._uri, latest["folder"]))


@contextlib.contextmanager
def worker_tempdir() -> Iterator[Path]:
    """Yield a temporary folder of this process."""
    with tempfile.TemporaryDirectory(prefix=f"{TEMPDIR_PREFIX}{os.getpid()}-") as directory:
        yield Path(directory)


def remove_stale_tempdirs() -> None:
    """Remove the temporary folders of killed workers on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPDIR_PREFIX}*"):
        process = folder.name.removeprefix(TEMPDIR_PREFIX).partition("-")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(folder, ignore_errors=True)
