"""Measure the driver of a sweep whose thousand trials replay recorded curves (`sweep_overhead.py`).

All but the training is that of a real sweep: Tune, searcher, ASHA, records, study, console. Trials
run in Ray actors as always, but share a few of them: starting a process for each trial would take
an hour and none of the driver's time.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from ray import tune

import orchestration.cluster.environment  # noqa: F401  (before anything imports ray)
from dfml.task import BEST_SCORE, SCORE
from orchestration.callback import SweepCallback
from orchestration.callbacks.console import Console
from orchestration.cluster.connection import cluster
from orchestration.cluster.interruption import Interruption
from orchestration.cluster.resources import TrialResources
from orchestration.job import SweepSettings, job_in
from orchestration.messages import EpochReport, result_of
from orchestration.search.asha import ResumableASHA
from orchestration.search.searcher import searcher
from orchestration.search.space import read_space
from orchestration.sweep_folder.records import TrialRecord
from orchestration.trials.runs import RunContext, run

CURVES = Path(__file__).parent / "curves"
# The sweep is divided into this many parts, to see whether the costs grow.
PARTS = 10
# Loads that the emoji's backbone reports per epoch; they make up most of a record.
ROUTER_METRICS = 60


def replay(config: dict[str, Any]) -> None:
    """Report the recorded curve that belongs to the trial's number; epochs take no time."""
    curves = json.loads((CURVES / "emoji-0.json").read_text())["trials"]
    scores = curves[job_in(config).number % len(curves)]["scores"]
    for epoch in range(1, len(scores) + 1):
        best = max(scores[:epoch])
        metrics = {
            "epoch": epoch,
            "loss": 10.0 / epoch,
            SCORE: scores[epoch - 1],
            BEST_SCORE: best,
            "best_epoch": 1 + scores.index(best),
            "began": time.time(),
            "train_seconds": 0.0,
            "validation_seconds": 0.0,
            "router_load": [[0.5] * 4] * (ROUTER_METRICS // 4),
        }
        tune.report(result_of(EpochReport(metrics, resumed=False, s3_bytes=0)))


class Meter(SweepCallback):
    """The driver's processor time and memory, sampled as trials end."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._process = psutil.Process()
        self._ended = 0
        self.seconds, self.megabytes = [time.process_time()], [self._resident()]

    def _resident(self) -> float:
        return float(self._process.memory_info().rss / 1e6)

    def trial_ended(self, record: TrialRecord) -> None:
        self._ended += 1
        if self._ended % self.every == 0:
            self.seconds.append(time.process_time())
            self.megabytes.append(self._resident())


def simulate(trials: int) -> dict[str, Any]:
    """Run the sweep and return the driver's milliseconds and kilobytes per trial, by tenth."""
    space = read_space(CURVES / "emoji.yaml")
    epochs = int(space.recipe["epochs"])
    meter = Meter(max(1, trials // PARTS))
    with tempfile.TemporaryDirectory() as folder, cluster(), contextlib.redirect_stdout(io.StringIO()):
        sweep, records = f"{folder}/simulated", list[TrialRecord]()
        # A trial always waits for a core, so that Tune reuses the process of the trial that ends.
        resources = TrialResources(workers=1, cpus=1, gpus=0, concurrent=trials, min_workers=1)
        console = Console(trials)
        context = RunContext(sweep, resources, console, Interruption(), [console, meter], {"CPU": 1}, reuse_actors=True)
        began = time.monotonic()
        scheduler = ResumableASHA(records, epochs, int(space.recipe["warm_epochs"]))
        search = searcher(space, 0, SweepSettings(sweep), epochs, records)
        run(replay, context, records, trials, search, scheduler, callbacks=[search])
        wall = time.monotonic() - began
    each = meter.every
    milliseconds = [round(1000 * (b - a) / each, 1) for a, b in zip(meter.seconds, meter.seconds[1:], strict=False)]
    kilobytes = [round(1000 * (b - a) / each, 1) for a, b in zip(meter.megabytes, meter.megabytes[1:], strict=False)]
    print(f"\n{len(records)} simulated trials in {wall:.0f} s; costs of the driver, by tenth:")
    print(f"  processor time per trial, ms: {milliseconds}")
    print(f"  memory per trial, kB: {kilobytes}; {meter.megabytes[-1]:.0f} MB at the end")
    return {"trials": len(records), "milliseconds_a_trial": milliseconds, "kilobytes_a_trial": kilobytes}


if __name__ == "__main__":
    print(simulate(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
