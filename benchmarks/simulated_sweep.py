"""A sweep of a thousand trials that replay recorded learning curves: what the driver itself costs, and whether that grows.

All but the training is a sweep's own: Tune, searcher, ASHA, records, study, console. Trials run in Ray actors as always, here one
after another in the same few, since to start a process for each would take an hour and none of the driver's time. Part of
`sweep_overhead.py`.
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

import orchestration.environment  # noqa: F401  (before anything imports ray)
from dfml.task import BEST_SCORE, SCORE
from orchestration.cluster.connection import cluster
from orchestration.cluster.share import Share
from orchestration.console import Console
from orchestration.interruption import Interruption
from orchestration.records import TrialRecord
from orchestration.reports import FIGURES, RESUMED, S3_BYTES, WORKER_SECONDS, WORKERS
from orchestration.search.asha import ResumableASHA
from orchestration.search.searcher import searcher
from orchestration.search.space import read_space
from orchestration.search.study import StudyFile
from orchestration.trials.runs import Setting, run

CURVES = Path(__file__).parent / "curves"
PARTS = 10  # of the sweep, which are compared
ROUTER_FIGURES = 60  # an epoch of the emoji's backbone reports so many loads, which are most of a record


def replay(config: dict[str, Any]) -> None:
    """A trial whose epochs take no time; the curve is that of its number."""
    curves = json.loads((CURVES / "emoji-0.json").read_text())["trials"]
    scores = curves[config["number"] % len(curves)]["scores"]
    for epoch in range(1, len(scores) + 1):
        best = max(scores[:epoch])
        figures = {
            "epoch": epoch,
            "loss": 10.0 / epoch,
            SCORE: scores[epoch - 1],
            BEST_SCORE: best,
            "best_epoch": 1 + scores.index(best),
            "began": time.time(),
            "train_seconds": 0.0,
            "validation_seconds": 0.0,
            **{f"router_load_{i}_0": 0.5 for i in range(ROUTER_FIGURES)},
        }
        told = {FIGURES: list(figures), RESUMED: False, S3_BYTES: 0, WORKER_SECONDS: 0.0, WORKERS: 1}
        tune.report({**figures, **told})


class Meter:
    """The driver's processor time and memory as trials end."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._process = psutil.Process()
        self._ended = 0
        self.seconds, self.megabytes = [time.process_time()], [self._resident()]

    def _resident(self) -> float:
        return float(self._process.memory_info().rss / 1e6)

    def see(self, record: TrialRecord) -> None:
        self._ended += record.state != "running"
        if record.state != "running" and self._ended % self._every == 0:
            self.seconds.append(time.process_time())
            self.megabytes.append(self._resident())


def simulate(trials: int) -> dict[str, Any]:
    """Run the sweep; returns the driver's milliseconds and kilobytes a trial in each tenth of it."""
    space = read_space(CURVES / "emoji.yaml")
    epochs = int(space.recipe["epochs"])
    meter = Meter(max(1, trials // PARTS))
    with tempfile.TemporaryDirectory() as folder, cluster(), contextlib.redirect_stdout(io.StringIO()):
        sweep, records = f"{folder}/simulated", list[TrialRecord]()
        study = StudyFile(sweep, space, ("score",), records)

        def follow(record: TrialRecord) -> None:
            study.update(record)
            meter.see(record)

        job = {"epochs": epochs, "workers": 1, "cpus": 1, "gpu": False}
        # A trial always waits for a core, so that Tune hands it the process of the one that ends.
        share = Share(workers=1, cpus=1, gpu=False, concurrent=trials, min_workers=1)
        setting = Setting(sweep, share, Console(trials), Interruption(), driver={"CPU": 1}, reuse_actors=True)
        began = time.monotonic()
        scheduler = ResumableASHA(records, epochs, int(space.recipe["warm_epochs"]))
        run(replay, setting, records, trials, searcher(space, 0, job, records), scheduler, follow=follow)
        wall = time.monotonic() - began
    each = meter._every
    milliseconds = [round(1000 * (b - a) / each, 1) for a, b in zip(meter.seconds, meter.seconds[1:], strict=False)]
    kilobytes = [round(1000 * (b - a) / each, 1) for a, b in zip(meter.megabytes, meter.megabytes[1:], strict=False)]
    print(f"\n{len(records)} simulated trials in {wall:.0f} s; the driver's own, for each tenth of them:")
    print(f"  processor time a trial, ms: {milliseconds}")
    print(f"  memory a trial, kB: {kilobytes}; {meter.megabytes[-1]:.0f} MB at the end")
    return {"trials": len(records), "milliseconds_a_trial": milliseconds, "kilobytes_a_trial": kilobytes}


if __name__ == "__main__":
    print(simulate(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
