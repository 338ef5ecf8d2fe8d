"""Measure what a sweep costs in addition to training: around each trial, and in the driver.

    python benchmarks/sweep_overhead.py
    python benchmarks/sweep_overhead.py --workers 1 --at-once 2 --simulated 0
    python benchmarks/sweep_overhead.py --trials 3 --simulated 0

The first command runs twelve trials of about a minute each on the emoji and takes a quarter of an
hour on two cores.

There are three parts. The floor can't be avoided as long as each trial has its own processes: it
starts as many processes as a trial has workers, at the same time, and imports what they train
with. The sweep is `run_sweep.py` itself; all times come from its records. The simulated sweep runs
the same driver (Tune, searcher, ASHA, records, study) with trials that replay recorded curves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import orchestration.cluster.environment  # noqa: F401  (before anything imports ray)
from benchmarks.simulated_sweep import simulate
from orchestration.sweep_folder.records import TrialRecord, load_records

FLOOR = "import ray.train, dfml.train"
REPOSITORY = Path(__file__).parents[1]


def floor(workers: int) -> float:
    """Return the seconds to start one process per worker and import training; the best of three."""

    def once() -> float:
        began = time.monotonic()
        started = [subprocess.Popen([sys.executable, "-c", FLOOR], cwd=REPOSITORY) for _ in range(workers)]
        for process in started:
            process.wait()
        return time.monotonic() - began

    return min(once() for _ in range(3))


def sweep(
    trials: int, workers: int, at_once: int, epochs: int, image_size: int, storage: str
) -> tuple[list[TrialRecord], float]:
    """Run a sweep and return its trials' records and the seconds of the whole command."""
    command = [
        sys.executable,
        "run_sweep.py",
        "--trials",
        trials,
        "--workers-per-trial",
        workers,
        "--concurrent-trials",
        at_once,
        "--max-epochs",
        epochs,
    ]
    command += ["--set", f"image_size={image_size}", "--storage", storage, "--name", "overhead"]
    began = time.monotonic()
    subprocess.run(
        [str(word) for word in command], cwd=REPOSITORY, check=True, env={**os.environ, "RAY_ADDRESS": "local"}
    )
    seconds = time.monotonic() - began
    return load_records(f"{storage}/overhead"), seconds


def phases(records: list[TrialRecord]) -> dict[str, list[float]]:
    """Return the seconds of all trials by phase."""
    found: dict[str, list[float]] = {
        "its process, placement, workers' processes": [],
        "imports, model, data": [],
        "training steps": [],
        "validation": [],
        "checkpoints and reports between epochs": [],
        "last step to the end of the trial": [],
        "last step to the next trial's start": [],
    }
    names = list(found)
    for record in records:
        assert record.began is not None
        assert record.workers_started is not None
        assert record.ended is not None
        epochs = record.epochs
        trained = sum(metrics["train_seconds"] for metrics in epochs)
        validated = sum(metrics["validation_seconds"] for metrics in epochs)
        last = epochs[-1]["began"] + epochs[-1]["train_seconds"]
        found[names[0]].append(record.workers_started - record.began)
        found[names[1]].append(epochs[0]["began"] - record.workers_started)
        found[names[2]].append(trained)
        found[names[3]].append(validated)
        found[names[4]].append(last - epochs[0]["began"] - trained - (validated - epochs[-1]["validation_seconds"]))
        found[names[5]].append(record.ended - last)
        if later := [other.began for other in records if other.began and other.began > last]:
            found[names[6]].append(min(later) - last)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2, help="workers per trial, one core each")
    parser.add_argument("--at-once", type=int, default=1, help="concurrent trials; at most as many as the cores allow")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--image-size",
        type=int,
        default=96,
        help="image size in training; at 96 px, on two cores, a trial takes 50 s (stopped after two epochs) to 110 s",
    )
    parser.add_argument("--simulated", type=int, default=1000, help="trials of the simulated sweep; 0: none")
    arguments = parser.parse_args()

    content: dict[str, Any] = {"workers": arguments.workers, "at_once": arguments.at_once}
    content["floor_seconds"] = round(floor(arguments.workers), 2)
    if arguments.trials:
        content |= real(arguments, content["floor_seconds"])
    if arguments.simulated:
        content["simulated"] = simulate(arguments.simulated)
    (Path(__file__).parent / "sweep_overhead.json").write_text(json.dumps(content, indent=1) + "\n")


def real(arguments: argparse.Namespace, floor_seconds: float) -> dict[str, Any]:
    trials, workers = arguments.trials, arguments.workers
    with tempfile.TemporaryDirectory() as storage:
        records, seconds = sweep(trials, workers, arguments.at_once, arguments.epochs, arguments.image_size, storage)
    of = phases(records)
    medians = {name: round(statistics.median(values), 2) for name, values in of.items() if values}
    search = max(record.ended or 0.0 for record in records) - (records[0].began or 0.0)
    # Averaged over all cores.
    trained = sum(of["training steps"]) / arguments.at_once
    first_step = statistics.median(a + b for a, b in zip(*list(of.values())[:2], strict=True))
    lasted = sorted(record.ended - record.began for record in records if record.ended and record.began)
    print(
        f"\n{trials} trials of {lasted[0]:.0f} to {lasted[-1]:.0f} s, {arguments.at_once} at once, "
        f"{workers} worker(s) of one core each; medians in seconds\n"
    )
    for name, value in medians.items():
        print(f"  {value:7.2f}  {name}")
    print(
        f"\n  {first_step:7.2f}  a trial's start to its first step; "
        f"the floor, bare processes with their imports: {floor_seconds:.2f}"
    )
    print(
        f"  {trained / search:7.1%}  of the search's core-seconds in training steps ({trained:.0f} of {search:.0f} s)"
    )
    validated = sum(of["validation"]) / arguments.at_once
    print(f"  {validated / search:7.1%}  of them in validation")
    return {
        "trials": trials,
        "image_size": arguments.image_size,
        "trial_seconds": [round(value, 1) for value in lasted],
        "median_seconds": medians,
        "start_to_first_step_seconds": round(first_step, 2),
        "share_of_search_in_steps": round(trained / search, 4),
        "share_of_search_in_validation": round(validated / search, 4),
        "command_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
