"""The run folders that a real sweep writes for Weights & Biases offline, read from their files."""

from __future__ import annotations

import glob
import json
import re
from typing import Any

import pytest
from ray_head import Head
from small_sweep import WANDB_KEY, Sweep
from wandb_files import OfflineRun, files_with, offline_runs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def runs(finished: tuple[Sweep, str]) -> dict[str, OfflineRun]:
    return {run.name: run for run in offline_runs(finished[0].folder)}


def record(sweep: Sweep, folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep.folder / "trials" / folder / "record.json").read_text())
    return found


def test_a_sweep_is_a_group_and_a_trial_a_run(finished: tuple[Sweep, str], runs: dict[str, OfflineRun]) -> None:
    assert [line for line in finished[1].splitlines() if "Weights & Biases failed" in line] == []
    assert set(runs) == {"trial 0", "trial 1", "trial 2", "winner"}
    (group,) = {run.group for run in runs.values()}
    ids = [run.id for run in runs.values()]
    assert ids == [f"{group}-000", f"{group}-001", f"{group}-002", f"{group}-winner"]
    found = re.search(r"then wandb sync (\S+)$", finished[1].strip().splitlines()[-1])
    assert found is not None
    assert sorted(glob.glob(found[1])) == sorted(str(run.folder) for run in runs.values())


def test_a_run_has_its_recipe_and_every_epoch(finished: tuple[Sweep, str], runs: dict[str, OfflineRun]) -> None:
    for name, folder in {"trial 0": "000", "trial 1": "001", "trial 2": "002", "winner": "winner"}.items():
        kept, run = record(finished[0], folder), runs[name]
        assert run.config["lr"] == kept["recipe"]["lr"]
        assert run.config["num_sub_blocks"] == kept["recipe"]["num_sub_blocks"]
        logged = [step for step in run.history if "epoch" in step]
        assert [step["_step"] for step in logged] == [metrics["epoch"] for metrics in kept["epochs"]]
        for step, metrics in zip(logged, kept["epochs"], strict=True):
            assert step["loss"] == metrics["loss"]
            assert step.get("recall_at_1") == metrics.get("recall_at_1")
            assert len(metrics["router_load"][0]) == kept["recipe"]["num_sub_blocks"]
            assert step["router_load/0.values"] == pytest.approx(metrics["router_load"][0])
        assert run.summary["ended"] == kept["state"]
        assert (
            (run.summary["parts"], run.summary["loader_workers"]) == (kept["parts"], kept["loader_workers"]) == (1, 0)
        )


def test_the_winners_run_has_scores_gallery_report_and_model(
    finished: tuple[Sweep, str], runs: dict[str, OfflineRun]
) -> None:
    winner = runs["winner"]
    config = json.loads((finished[0].folder / "best" / "config.json").read_text())
    assert winner.summary["test/recall_at_1"] == config["test"]["recall_at_1"]
    assert winner.artifacts == [(f"{winner.group}-best", "model")]
    logged = {key.split(".")[0] for step in winner.history for key in step}
    pictures = {file.stem: file.read_bytes() for file in (finished[0].folder / "report").glob("retrievals_*.png")}
    assert {*pictures, "report"} <= logged
    kept = [file.read_bytes() for file in (winner.folder / "files" / "media" / "images").glob("retrievals_*.png")]
    assert len(pictures) > 1
    assert sorted(kept) == sorted(pictures.values())


def test_the_key_is_written_nowhere(finished: tuple[Sweep, str], head: Head) -> None:
    """The key is neither in the sweep's folder nor in the files of Ray's session.

    The session's files hold the logs and runtime environments that the dashboard shows.
    test_interruption.py checks a Ray that the sweep itself started.
    """
    assert WANDB_KEY not in finished[1]
    assert list(head.folder.glob("ray/session_*/logs/raylet.out"))
    for folder in (finished[0].folder, head.folder):
        assert files_with(WANDB_KEY, folder) == []
