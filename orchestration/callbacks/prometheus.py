"""A sweep's metrics as Ray application metrics, which Ray exports as `ray_dfml_<name>`.

The names are the ones in the trials' records.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

from ray.util.metrics import Gauge

from orchestration.callback import SweepCallback
from orchestration.sweep_folder.records import State, TrialRecord

if TYPE_CHECKING:
    from torch import Tensor

# Seconds until gauges are set again. Every ten seconds Ray sends the gauges set since the last
# time, and its metrics agent drops a value after twenty seconds.
REPEAT_SECONDS = 5.0
TAGS = ("sweep", "dataset", "trial")
# Values of a trial's last epoch, exported until the sweep ends.
REACHED = {
    "epoch": "Number of finished epochs",
    "recall_at_1": "Validation R@1, 0 to 1",
    "top_1": "Validation top-1 accuracy, 0 to 1 (classification)",
    "best_score": "The trial's best validation R@1, or top-1, so far",
    "loss": "Mean training loss",
}
# Values of the last epoch, exported while the trial runs.
RUNNING = {
    "lr": "Learning rate of the backbone",
    "images_per_second": "Training images per second, over all workers of the trial",
    "train_seconds": "Seconds of training, without validation",
    "data_wait_seconds": "Seconds of training spent waiting for batches, of the worker that waited longest",
    "gpu_memory_bytes": "Peak GPU memory of tensors, of the worker with the highest peak",
    "router_entropy": "Mean entropy of the routers' choices, 0 (always one sub-block) to 1 (uniform)",
    "router_switched": "Share of probe tokens whose sub-block differs from the one at the start of the epoch",
    "routers_collapsed": "Routers that send nearly all tokens to one sub-block",
}
TRIAL = {
    "s3_bytes": "Bytes that the trial has fetched from S3",
    "restarts": "Restarts from the last checkpoint: workers or the trial's process were lost, or memory ran out",
}

# Seconds between reports within an epoch; each waits for the GPU.
STEP_REPORT_SECONDS = 5.0
LIVE = {
    "step": "Finished steps of the running epoch",
    "steps": "Number of steps per epoch",
    "step_loss": "Training loss of one step",
    "step_images_per_second": "Training images per second, over all workers of the trial, in the last seconds",
}


class PrometheusMetrics(SweepCallback):
    """Export a sweep's metrics from the driver, within a `with` block while Ray is connected.

    Gauges set in a worker vanish with it, often before the next scrape.

    Args:
        labels: the values of the tags `sweep` and `dataset`.
        records: the records of earlier sessions' trials.
    """

    def __init__(self, labels: dict[str, str], records: list[TrialRecord]) -> None:
        self._labels = labels
        # A trial that an earlier session interrupted doesn't run until it is started again.
        self._followed = {record.folder: record for record in records if record.state != "running"}
        texts = {**REACHED, **RUNNING, **TRIAL}
        self._gauges = {name: Gauge(f"dfml_{name}", text, TAGS) for name, text in texts.items()}
        self._load = Gauge(
            "dfml_router_load", "Share of a router's tokens through a sub-block", (*TAGS, "router", "sub_block")
        )
        self._trials = Gauge("dfml_trials", "Trials of the search by state; stopped: early", (*TAGS[:2], "state"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_setting, name="metrics", daemon=True)

    def __enter__(self) -> PrometheusMetrics:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def trial_started(self, record: TrialRecord) -> None:
        self._followed[record.folder] = record

    def epoch_ended(self, record: TrialRecord, last: int) -> None:
        self._set(record)

    def trial_ended(self, record: TrialRecord) -> None:
        self._set(record)

    def _keep_setting(self) -> None:
        """Set all gauges again and again, in a thread.

        Tune's loop stops between the search and the winner's training, and while the storage is
        slow.
        """
        while True:
            for record in list(self._followed.values()):
                self._set(record)
            states = Counter(record.state for record in list(self._followed.values()) if record.kind == "trial")
            for state in get_args(State):
                self._trials.set(states[state], {**self._labels, "state": state})
            if self._ended.wait(REPEAT_SECONDS):
                return

    def _set(self, record: TrialRecord) -> None:
        tags = {**self._labels, "trial": record.label}
        for name in TRIAL:
            self._gauges[name].set(getattr(record, name), tags)
        metrics: dict[str, Any] = record.epochs[-1] if record.epochs else {}
        names = {**REACHED, **RUNNING} if record.state == "running" else REACHED
        for name in names.keys() & metrics.keys():
            self._gauges[name].set(metrics[name], tags)
        if record.state == "running":
            for router, row in enumerate(metrics.get("router_load", [])):
                for sub_block, load in enumerate(row):
                    self._load.set(load, {**tags, "router": str(router), "sub_block": str(sub_block)})


class StepGauges:
    """The gauges within an epoch, set after each step by the first worker of a trial.

    Args:
        labels: the values of the tags `sweep`, `dataset` and `trial`.
        batch_size: the images per step.
    """

    def __init__(self, labels: dict[str, str], batch_size: int) -> None:
        self._labels = labels
        self._batch_size = batch_size
        self._gauges = {name: Gauge(f"dfml_{name}", text, tuple(labels)) for name, text in LIVE.items()}
        self._epoch = self._step = 0
        self._since = 0.0  # monotonic time at which that step was finished

    def __call__(self, epoch: int, step: int, steps: int, terms: dict[str, Tensor]) -> None:
        now = time.monotonic()
        if epoch != self._epoch:  # validation took place in between
            self._epoch, self._step, self._since = epoch, step, now
        # An epoch's last step is always reported: training waits for the GPU there anyway.
        if now - self._since < STEP_REPORT_SECONDS and step < steps:
            return
        values = {"step": float(step), "steps": float(steps), "step_loss": float(terms["loss"])}
        now = time.monotonic()  # reading the loss has waited for the GPU
        if step > self._step:
            values["step_images_per_second"] = (step - self._step) * self._batch_size / (now - self._since)
        for name, value in values.items():
            self._gauges[name].set(value, self._labels)
        self._step, self._since = step, now
