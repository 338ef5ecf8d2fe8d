"""The checkpoints that Ray keeps of a run, from the list in its folder; that Ray reads it alike, a real sweep's test says."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from dfml import storage
from orchestration.trials.kept import Kept, fetch_best, kept_checkpoints
from orchestration.trials.retention import SNAPSHOT

FILES = ("model.safetensors", "optimizer.pt", "figures.json")


def keep(run: str | Path, *scores: tuple[int, float]) -> None:
    """A run's folder with checkpoints of these epochs and scores, the list written last."""
    entries = []
    for epoch, score in scores:
        for file in FILES:
            storage.write(storage.join(run, f"checkpoint_{epoch}", file), f"{file} of epoch {epoch}".encode())
        metrics = {"epoch": epoch, "score": score, "loss": 1.0}
        entries.append({"checkpoint_dir_name": f"checkpoint_{epoch}", "metrics": metrics})
    storage.write(storage.join(run, SNAPSHOT), json.dumps({"checkpoint_results": entries}).encode())


def test_the_highest_score_is_fetched(place: str, tmp_path: Path) -> None:
    keep(place, (4, 0.3), (2, 0.5))
    assert kept_checkpoints(place)[0] == Kept(f"{place}/checkpoint_4", 4, 0.3)
    (local := tmp_path / "local").mkdir()
    assert fetch_best(place, 4, local).epoch == 2
    assert {file.name: file.read_text() for file in local.iterdir()} == {file: f"{file} of epoch 2" for file in FILES}


def test_the_last_epoch_is_waited_for_and_a_torn_list_passed_over(tmp_path: Path) -> None:
    """As while Ray enters a checkpoint that has just been reported, and that is the best."""
    run = tmp_path / "run"
    keep(run, (2, 0.5))

    def enter() -> None:
        whole = (run / SNAPSHOT).read_text()
        (run / SNAPSHOT).write_text(whole[: len(whole) // 2])
        time.sleep(0.5)
        keep(run, (3, 0.6))

    writing = threading.Thread(target=enter)
    writing.start()
    (local := tmp_path / "local").mkdir()
    assert fetch_best(str(run), 3, local, patience=30).epoch == 3
    writing.join()


def test_one_that_never_comes_is_said(tmp_path: Path) -> None:
    keep(tmp_path, (2, 0.5))
    with pytest.raises(TimeoutError, match="no checkpoint of epoch 3"):
        fetch_best(str(tmp_path), 3, tmp_path, patience=0.3)


def test_a_checkpoint_that_is_gone_is_not_taken(tmp_path: Path) -> None:
    keep(tmp_path, (2, 0.5))
    (tmp_path / "checkpoint_2" / "optimizer.pt").unlink()
    with pytest.raises(TimeoutError):
        fetch_best(str(tmp_path), 2, tmp_path, patience=0.3)
