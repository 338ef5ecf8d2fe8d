"""An ended trial leaves complete checkpoints and no partial ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dfml import storage
from orchestration.trials.checkpoints import (
    SNAPSHOT,
    TEMPDIR_PREFIX,
    clear_partial,
    remove_stale_tempdirs,
    whole_checkpoints,
    worker_tempdir,
)

KEPT = ("checkpoint_2026-11-26_17-18-14.789606", "checkpoint_2026-11-26_17-18-20.100000")
PARTIAL = "checkpoint_2026-11-26_17-18-31.000001"


def write_trial(sweep: str) -> str:
    trial = storage.join(sweep, "trials", "003")
    for folder in (*KEPT, PARTIAL, "checkpoint_old", "mid_epoch/0002_5"):
        storage.write(storage.join(trial, folder, "model.safetensors"), b"weights")
    results = [{"checkpoint_dir_name": KEPT[0]}]
    state = {"checkpoint_results": results, "latest_checkpoint_result": {"checkpoint_dir_name": KEPT[1]}}
    storage.write(storage.join(trial, SNAPSHOT), json.dumps(state).encode())
    storage.write(storage.join(trial, "record.json"), b"{}")
    return trial


def test_only_what_the_snapshot_names_is_left(uri: str) -> None:
    sweep = uri
    trial = write_trial(sweep)
    assert whole_checkpoints(trial) == set(KEPT)
    assert clear_partial(sweep, "003") == [PARTIAL, "mid_epoch"]
    of_another = "checkpoint_old/model.safetensors"
    for name in (*(f"{kept}/model.safetensors" for kept in KEPT), of_another, "record.json", SNAPSHOT):
        assert storage.exists(storage.join(trial, name))
    for name in (f"{PARTIAL}/model.safetensors", "mid_epoch/0002_5/model.safetensors"):
        assert not storage.exists(storage.join(trial, name))
    assert clear_partial(sweep, "003") == []


def test_a_trial_that_never_ran_has_nothing_to_clear(uri: str) -> None:
    assert clear_partial(uri, "007") == []


KILLED = """
import os, signal
from orchestration.trials.checkpoints import worker_tempdir
with worker_tempdir() as folder:
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    left = Path(done.stdout.strip())
    assert left.parent == tmp_path
    assert left.name.startswith(TEMPDIR_PREFIX)
    (left / "model.safetensors").write_bytes(b"half")
    with worker_tempdir() as mine:
        remove_stale_tempdirs()
        assert mine.is_dir()
    assert list(tmp_path.iterdir()) == []
