"""Ctrl-C in the middle of a sweep, and the same command again; the undisturbed sweep is the truth to compare with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_sweep import OFFLINE, Sweep, sweep_of
from wandb_files import offline_runs

pytestmark = pytest.mark.integration

CLEAN_END = 30  # seconds from Ctrl-C to the end of all processes


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process printed up to and with the line that holds `text`."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    raise AssertionError(f"ended without saying {text!r}:\n{printed}")


def record(sweep: Sweep, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep.folder / "trials" / f"{number:03d}" / "record.json").read_text())
    return found


@pytest.fixture(scope="module")
def resumed(few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """A sweep that Ctrl-C cut in its second trial, and what the same command printed after."""
    sweep = sweep_of(few_emoji, tmp_path_factory.mktemp("interrupted"), "sweep")
    process = sweep.start(OFFLINE)
    read_until(process, "trial 1  epoch 1/3")
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 5  # raylet, GCS, dashboard, workers, …
    assert [p.name() for p in family if "WANDB_API_KEY" in p.environ() and "wandb" not in p.name()] == []
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=CLEAN_END)
    _, alive = psutil.wait_procs(family, timeout=max(0, CLEAN_END - (time.monotonic() - began)))
    assert [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert process.returncode == 130
    assert "the same command goes on from here" in rest
    assert "Traceback" not in rest
    assert record(sweep, 0)["state"] in ("finished", "stopped")
    assert record(sweep, 1)["state"] == "running"
    return sweep, sweep.run(environment=OFFLINE)


def test_what_was_finished_is_kept_and_what_was_cut_goes_on(resumed: tuple[Sweep, str]) -> None:
    printed = resumed[1]
    assert "1 of 3 trials have ended, trial 1 goes on from its last checkpoint" in printed
    assert "trial 0  epoch" not in printed
    assert "trial 1  epoch 1/3" not in printed
    assert [figures["epoch"] for figures in record(resumed[0], 1)["epochs"]][:1] == [1]


def test_the_resumed_sweep_equals_an_undisturbed_one(resumed: tuple[Sweep, str], finished: tuple[Sweep, str]) -> None:
    """Same seed: the same configurations, and the same figures to 1e-4, before and after the interruption."""
    for number in range(3):
        mine, other = record(resumed[0], number), record(finished[0], number)
        assert mine["parameters"] == other["parameters"]
        assert mine["state"] == other["state"]
        assert len(mine["epochs"]) == len(other["epochs"])
        for a, b in zip(mine["epochs"], other["epochs"], strict=True):
            for name in ("loss", "loss_routed", "recall_at_1", "map_at_r"):
                assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-4), (number, a["epoch"], name)


def test_the_resumed_sweep_chooses_and_scores_alike(resumed: tuple[Sweep, str], finished: tuple[Sweep, str]) -> None:
    mine, other = (
        json.loads((sweep.folder / "report" / "results.json").read_text()) for sweep, _ in (resumed, finished)
    )
    assert mine["winner"] == other["winner"]
    assert mine["test"]["winner"]["recall_at_1"] == pytest.approx(other["test"]["winner"]["recall_at_1"], abs=0.02)


def test_the_trial_that_was_cut_goes_on_in_the_same_run_of_weights_and_biases(resumed: tuple[Sweep, str]) -> None:
    sweep = resumed[0]
    cut = [run for run in offline_runs(sweep.folder) if run.name == "trial 1"]
    assert len(cut) == 2  # one folder for each session
    assert len({run.id for run in cut}) == 1
    epochs = [[step["epoch"] for step in run.history] for run in cut]
    assert epochs[0][:1] == [1]
    assert epochs[0] + epochs[1] == [figures["epoch"] for figures in record(sweep, 1)["epochs"]]
    assert len({run.group for run in offline_runs(sweep.folder)}) == 1
