"""A sweep on S3 that loses a worker, stops by Ctrl-C and resumes equals an undisturbed sweep."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from nodes import Console
from ray_head import Head, ray_folder
from small_sweep import OFFLINE, WANDB_KEY, Sweep, sweep_of
from train_workers import train_workers
from wandb_files import files_with, offline_runs

import dfml
from dfml import storage
from dfml.data.format.manifest import read_manifest
from tests.s3.locations import client_of, new_bucket, use
from tests.s3.servers import Server

pytestmark = [pytest.mark.integration, pytest.mark.clusters]

# Seconds from Ctrl-C until all processes have ended.
CLEAN_END = 30


@dataclass(frozen=True)
class Cut:
    """A sweep that was disturbed twice and has ended.

    Attributes:
        sweep: the sweep, on S3 like its data.
        seen: the checkpoints within the second epoch of trial 0, in order of appearance.
        killed_after: the number of these checkpoints when a worker was killed.
        first: the output of the session that was interrupted in trial 1.
        second: the output of the same command afterwards.
        wandb: the folder with the files of Weights & Biases.
        cache: the cache folder of the data set on this machine.
    """

    sweep: Sweep
    seen: list[str]
    killed_after: int
    first: str
    second: str
    wandb: Path
    cache: Path

    def record(self, number: int) -> dict[str, Any]:
        uri = storage.join(str(self.sweep.storage), self.sweep.name, "trials", f"{number:03d}", "record.json")
        found: dict[str, Any] = json.loads(storage.read(uri))
        return found


@pytest.fixture(scope="module")
def bucket(moto: Server) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        use(moto, patch)
        yield f"s3://{new_bucket(moto)}"


@pytest.fixture(scope="module")
def cut(bucket: str, head: Head, few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Cut:
    """Run a session on its own Ray, of which nothing may remain, and a second on `head`."""
    storage.upload(few_emoji, f"{bucket}/few")
    here = tmp_path_factory.mktemp("cut")
    sweep = sweep_of(f"{bucket}/few", f"{bucket}/sweeps", "cloud")
    sweep = sweep.added("--checkpoint-steps", "2", "--cache-dir", str(here / "cache"))
    environment = {**OFFLINE, "WANDB_DIR": str(here)}
    with ray_folder() as ray_files:
        console = Console(sweep.start({**environment, "RAY_TMPDIR": str(ray_files)}))
        seen, killed_after = lose_a_worker(sweep, console)
        console.wait_for("trial 1  epoch 1/3")
        interrupt(console)
        assert list(ray_files.glob("ray/session_*/logs/raylet.out"))
        assert files_with(WANDB_KEY, ray_files) == []
    second = sweep.run(environment={**head.named, **environment})
    return Cut(sweep, seen, killed_after, console.printed, second, here, here / "cache")


def lose_a_worker(sweep: Sweep, console: Console) -> tuple[list[str], int]:
    """Kill a worker when trial 0 has two checkpoints within its second epoch.

    Returns:
        All checkpoints within that epoch, and how many there were when the worker was killed.
    """
    latest = storage.join(str(sweep.storage), sweep.name, "trials", "000", "mid_epoch", "latest.json")
    seen: list[str] = []
    killed_after = 0
    while "trial 0  epoch 2/3" not in console.printed:
        assert console.process.poll() is None, console.printed
        # The file is missing when the epoch has just ended.
        with contextlib.suppress(FileNotFoundError):
            content = json.loads(storage.read(latest))
            if content["after_epoch"] == 1 and content["folder"] not in seen[-1:]:
                seen.append(content["folder"])
        if len(seen) == 2 and not killed_after:
            train_workers(console.process.pid)[-1].kill()
            killed_after = len(seen)
        time.sleep(0.03)
    return seen, killed_after


def interrupt(console: Console) -> None:
    """Send Ctrl-C like a terminal, and check that all processes end within seconds.

    Also check that no process has W&B's key in its environment.
    """
    driver = console.process.pid
    family = [*psutil.Process(driver).children(recursive=True), *train_workers(driver)]
    assert len(family) > 5  # raylet, GCS, dashboard, workers, …
    assert [p.name() for p in family if "WANDB_API_KEY" in p.environ() and "wandb" not in p.name()] == []
    os.killpg(driver, signal.SIGINT)
    began = time.monotonic()
    console.end(CLEAN_END)
    _, alive = psutil.wait_procs(family, timeout=max(0, CLEAN_END - (time.monotonic() - began)))
    assert [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert console.process.returncode == 130
    assert "run the same command again to resume" in console.printed
    assert "Traceback" not in console.printed


def assert_alike(mine: dict[str, Any], other: dict[str, Any]) -> None:
    """Check that two records have the same metrics to 1e-4."""
    assert len(mine["epochs"]) == len(other["epochs"])
    for a, b in zip(mine["epochs"], other["epochs"], strict=True):
        for name in ("loss", "loss_routed", "recall_at_1", "map_at_r"):
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-4), (mine["number"], a["epoch"], name)


def of_finished(finished: tuple[Sweep, str], number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished[0].folder / f"trials/{number:03d}/record.json").read_text())
    return found


def test_a_trial_whose_worker_was_killed_goes_on_within_its_epoch(cut: Cut, finished: tuple[Sweep, str]) -> None:
    assert cut.killed_after
    # If the epoch had started again from its beginning, checkpoints would repeat.
    assert cut.seen == sorted(set(cut.seen))
    assert len(cut.seen) > cut.killed_after
    assert "trial 0  resumes from its last checkpoint" in cut.first
    assert_alike(cut.record(0), of_finished(finished, 0))


def test_what_was_finished_is_kept_and_what_was_cut_goes_on(cut: Cut) -> None:
    assert "1 of 3 trials have ended, trial 1 resumes from its last checkpoint" in cut.second
    assert "trial 0  epoch" not in cut.second
    assert "trial 1  epoch 1/3" not in cut.second
    assert [metrics["epoch"] for metrics in cut.record(1)["epochs"]][:1] == [1]


def test_the_resumed_sweep_equals_an_undisturbed_one(cut: Cut, finished: tuple[Sweep, str]) -> None:
    """With the same seed, configurations are equal and metrics are equal to 1e-4."""
    for number in range(3):
        mine, other = cut.record(number), of_finished(finished, number)
        assert mine["parameters"] == other["parameters"]
        assert mine["state"] == other["state"]
        assert_alike(mine, other)


def test_the_resumed_sweep_chooses_and_scores_alike(cut: Cut, finished: tuple[Sweep, str]) -> None:
    mine = json.loads(storage.read(f"{cut.sweep.storage}/{cut.sweep.name}/report/results.json"))
    other = json.loads((finished[0].folder / "report" / "results.json").read_text())
    assert mine["winner"] == other["winner"]
    assert mine["test"]["winner"]["recall_at_1"] == pytest.approx(other["test"]["winner"]["recall_at_1"], abs=0.02)


def test_the_trial_that_was_cut_goes_on_in_the_same_run_of_weights_and_biases(cut: Cut) -> None:
    runs = offline_runs(cut.wandb)
    of_the_cut = [run for run in runs if run.name == "trial 1"]
    # Each session has its own folder.
    assert len(of_the_cut) == 2
    assert len({run.id for run in of_the_cut}) == 1
    epochs = [[step["epoch"] for step in run.history] for run in of_the_cut]
    assert epochs[0][:1] == [1]
    assert epochs[0] + epochs[1] == [metrics["epoch"] for metrics in cut.record(1)["epochs"]]
    assert len({run.group for run in runs}) == 1


def test_a_sweep_lives_on_s3_and_streams_its_data_from_there(
    cut: Cut, bucket: str, moto: Server, few_emoji: Path
) -> None:
    uri = f"{bucket}/sweeps/cloud"
    assert f"{uri}/best" in cut.second
    pages = client_of(moto).get_paginator("list_objects_v2").paginate(Bucket=bucket.removeprefix("s3://"))
    keys = [found["Key"] for page in pages for found in page["Contents"]]
    for file in ("sweep.json", "best/model.safetensors", "report/index.html", "trials/000/record.json"):
        assert f"sweeps/cloud/{file}" in keys
    assert {key.split("/")[0] for key in keys} == {"few", "sweeps"}
    assert dfml.load(f"{uri}/best").recipe.epochs == 3
    assert "has ended already" in cut.sweep.run()
    assert not os.path.exists("s3:")
    kept = {path.stem for path in cut.cache.iterdir() if path.suffix in (".parquet", ".arrow")}
    manifest = read_manifest(few_emoji)
    assert kept == {file.sha256 for file in (*manifest.shards, *(split.index for split in manifest.splits.values()))}
