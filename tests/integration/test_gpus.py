"""The front door on a machine with one GPU, with four, and with none.

Ray is told of GPUs that don't exist, so nothing here trains.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from ray_head import Head, end, free_port, ray_folder, ray_start
from small_sweep import Sweep, sweep_of

from dfml.data.datasets import REPOSITORY
from orchestration.cli import plan_from
from orchestration.flags import parser
from orchestration.sweep_file import SweepFile
from tests import forked

pytestmark = pytest.mark.integration

# Takes half of a GPU twice, and prints what trials with half of one and with a whole one wait for.
WAIT = """
import orchestration.cluster.environment, ray, time
from orchestration.cluster.connection import cluster
from orchestration.cluster.resources import Demand, trial_resources
from orchestration.cluster.waiting import waiting_for
with cluster():
    half, whole = (trial_resources(Demand(trials=4, batch_size=48, gpus_per_worker=part)) for part in (0.5, 1))
    print(half.concurrent, half.cpus, whole.concurrent, whole.cpus)
    print(waiting_for(half), waiting_for(whole), sep="\\n")
    for _ in range(2):
        ray.get(ray.util.placement_group([{"CPU": 1, "GPU": 0.5}]).ready())
        time.sleep(1)  # until the nodes have reported it
        print(waiting_for(half), waiting_for(whole), sep="\\n")
"""

# Holds half of a GPU until it is killed.
HOLD = """
import orchestration.cluster.environment, ray, time
from orchestration.cluster.connection import cluster
with cluster():
    ray.get(ray.util.placement_group([{"CPU": 1, "GPU": 0.5}]).ready())
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def cluster_with(gpus: int) -> Iterator[Head]:
    flags = ["--num-cpus=16", f"--num-gpus={gpus}", "--include-dashboard=false", "--include-log-monitor=false"]
    with ray_folder() as folder, ray_start(folder, free_port(), *flags, **forked.workers()) as started:
        yield started


@contextmanager
def half_held(cluster: Head) -> Iterator[None]:
    """Hold half of a GPU in another process."""
    command = [sys.executable, "-c", HOLD]
    holder = forked.Popen(command, cwd=REPOSITORY, env=cluster.named, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        end(holder)


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[Head]:
    with cluster_with(1) as started:
        yield started


@pytest.fixture(scope="module")
def four_gpus() -> Iterator[Head]:
    with cluster_with(4) as started:
        yield started


def demo(storage: Path, *arguments: str) -> Sweep:
    """Return the sweep of the demo: four trials on the emoji with 48 images per batch."""
    return Sweep(["--storage", str(storage), *arguments], storage, "emoji")


def plan(cluster: Head, storage: Path, *arguments: str) -> str:
    """Return what the demo's dry run prints; check that it writes nothing."""
    said = demo(storage, *arguments, "--dry-run").run(environment=cluster.named)
    assert not list(storage.iterdir())
    return said


def refused(cluster: Head, storage: Path, *arguments: str) -> str:
    """Return the sentence with which the demo is refused; check that it leaves nothing."""
    said = demo(storage, *arguments).run(environment=cluster.named, code=2)
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not list(storage.iterdir())
    return said


def test_on_one_gpu_one_trial_runs_at_a_time_and_has_all_cores(one_gpu: Head, tmp_path: Path) -> None:
    said = plan(one_gpu, tmp_path)
    assert "(1 node, 1 GPU and 16 CPU cores)" in said
    assert "each trial: 1 worker(s) of 16 CPU core(s) and a GPU; 1 at once (there is room for one worker)" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "",
            "1 worker(s) of 4 CPU core(s) and a GPU; 4 at once (one GPU per trial, as there are 4 trial(s) for 4 "
            "usable GPUs; --workers-per-trial changes it)",
        ),
        (
            "--trials 2",
            "2 worker(s) of 4 CPU core(s) and a GPU; 2 at once (4 usable GPUs are divided among 2 trial(s) at once; "
            "--workers-per-trial changes it)",
        ),
        (
            "--trials 20 --gpus-per-worker 0.5",
            "1 worker(s) of 2 CPU core(s) and 0.5 of a GPU; 8 at once (up to 2 worker(s) per GPU, each of another "
            "trial)",
        ),
    ],
)
def test_four_gpus_are_divided_among_the_trials(arguments: str, said: str, four_gpus: Head, tmp_path: Path) -> None:
    printed = plan(four_gpus, tmp_path, *arguments.split())
    assert "(1 node, 4 GPUs and 16 CPU cores)" in printed
    assert f"each trial: {said}" in printed


def test_more_workers_than_gpus_are_refused_and_leave_nothing(four_gpus: Head, tmp_path: Path) -> None:
    assert (
        "--workers-per-trial 5 is more than the cluster can place: it has 4 GPUs and 16 CPU cores, and each worker "
        "takes a GPU and a core of the same node; give at most 4 or use a larger cluster"
        in refused(four_gpus, tmp_path, "--workers-per-trial", "5")
    )


def test_without_a_gpu_a_trial_has_two_workers_on_the_cpu_cores(head: Head, tmp_path: Path) -> None:
    assert (
        "each trial: 2 worker(s) of 1 CPU core(s); 1 at once (2 workers are the default without GPUs; "
        "--workers-per-trial changes it)" in plan(head, tmp_path)
    )
    assert "--gpus-per-worker 0.5 can't be used: the cluster has no GPU (it has 2 CPU cores)" in refused(
        head, tmp_path, "--gpus-per-worker", "0.5"
    )


def test_a_sweep_that_was_begun_on_more_gpus_tells_how_to_go_on(one_gpu: Head, tmp_path: Path) -> None:
    begun, sweep = plan_from(parser().parse_args(["--storage", str(tmp_path), "--trials", "2"]))
    SweepFile.of(begun.model_copy(update={"workers_per_trial": 2})).save(sweep)
    resumed = demo(tmp_path, "--trials", "2", "--dry-run")
    said = resumed.run(environment=one_gpu.named, code=2)
    assert (
        "the sweep was begun with 2 workers per trial, which is more than the cluster can place: it has 1 GPU and 16 "
        "CPU cores, and each worker takes a GPU and a core of the same node; use a larger cluster, or add "
        "--min-workers 1 to continue with fewer\n" in said
    )
    said = resumed.added("--min-workers", "1").run(environment=one_gpu.named)
    assert (
        "each trial: 2 worker(s) (at least 1) of 16 CPU core(s) and a GPU; 1 at once (as when the sweep was begun)"
        in said
    )


def test_a_trial_waits_for_the_part_of_a_gpu_that_it_needs(one_gpu: Head) -> None:
    done = forked.run([sys.executable, "-c", WAIT], cwd=REPOSITORY, env=one_gpu.named, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    resources, *waits = done.stdout.splitlines()
    assert resources == "2 8 1 16"
    assert waits[:3] == ["None"] * 3
    half, whole = "1 worker(s) with 0.5 GPUs and 8 CPU cores each", "1 worker(s) with 1 GPU and 16 CPU cores each"
    assert whole in waits[3]
    assert "of which 0.5 GPUs and 15 CPU cores are free; 0.5 GPUs and 1 CPU core are held by this sweep" in waits[3]
    assert half in waits[4]
    assert "of which 14 CPU cores are free; 1 GPU and 2 CPU cores are held by this sweep" in waits[4]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch could use the GPU")
def test_a_trial_is_placed_on_a_free_half_of_a_gpu_and_tells_that_torch_cannot_use_it(
    one_gpu: Head, few_emoji: Path, tmp_path: Path
) -> None:
    sweep = sweep_of(few_emoji, tmp_path, "sweep", trials=2).added("--gpus-per-worker", "0.5")
    with half_held(one_gpu):
        said = sweep.run(timeout=300, environment=one_gpu.named, code=1)
    assert "no trial of" in said
    for number in range(2):
        record = json.loads((sweep.folder / "trials" / f"{number:03d}" / "record.json").read_text())
        assert (record["state"], record["unfit"], record["restarts"]) == ("failed", False, 0)
        assert "can't use GPU 0, which Ray has found on this node" in record["reason"]
        assert record["gpu_hours"] == pytest.approx(record["cpu_hours"] / 16)
    assert json.loads((sweep.folder / "sweep.json").read_text())["plan"]["workers_per_trial"] == 1
