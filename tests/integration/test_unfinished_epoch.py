"""A training worker that is killed within an epoch: the trial goes on from the last checkpoint within it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_sweep import Sweep, sweep_of

pytestmark = pytest.mark.integration


def epochs_of(sweep: Sweep) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((sweep.folder / "trials" / "000" / "record.json").read_text())["epochs"]
    return found


def train_workers(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "RayTrainWorker" in " ".join(child.cmdline())]


def test_a_trial_whose_worker_was_killed_goes_on_within_its_epoch(
    few_emoji: Path, tmp_path: Path, finished: tuple[Sweep, str]
) -> None:
    sweep = sweep_of(few_emoji, tmp_path, "sweep", trials=1)
    sweep.arguments += ["--checkpoint-steps", "1"]
    process = sweep.start()
    latest = sweep.folder / "trials" / "000" / "unfinished" / "latest.json"
    seen: list[str] = []  # checkpoints within epoch 2, in the order in which they came
    killed_after = 0
    while process.poll() is None:
        if latest.exists():
            try:
                content = json.loads(latest.read_text())
            except (FileNotFoundError, json.JSONDecodeError):  # the epoch has just ended
                continue
            if content["after_epoch"] == 1 and content["folder"] not in seen[-1:]:
                seen.append(content["folder"])
            if len(seen) == 2 and not killed_after:
                train_workers(psutil.Process(process.pid))[-1].kill()
                killed_after = len(seen)
        time.sleep(0.01)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert killed_after
    # Whatever ended before the kill was noticed: no step comes twice, as it would if the epoch had begun anew.
    assert seen == sorted(set(seen))
    assert len(seen) > killed_after
    for mine, other in zip(epochs_of(sweep), epochs_of(finished[0]), strict=True):
        for name in ("loss", "loss_routed", "recall_at_1", "map_at_r"):
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), (mine["epoch"], name)
