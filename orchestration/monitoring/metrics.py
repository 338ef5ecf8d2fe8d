"""A sweep's figures as Ray application metrics: Ray gives them to Prometheus as `ray_dfml_<name>`, named as in the trials' records."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, get_args

from ray.util.metrics import Gauge

from orchestration.layout import trial_label
from orchestration.records import State, TrialRecord, router_loads

# Seconds. Ray tells a gauge's value once after it was set, every ten seconds, and its metrics agent forgets it twenty seconds later.
AGAIN = 5.0
TAGS = ("sweep", "dataset", "trial")
# Of a trial's last epoch, told until the sweep ends.
REACHED = {
    "epoch": "Epochs that have ended",
    "recall_at_1": "Validation R@1, 0 to 1",
    "top_1": "Validation top-1 accuracy, 0 to 1 (classification)",
    "best_score": "The trial's best validation R@1, or top-1, so far",
    "loss": "Mean training loss",
}
# Of the last epoch too, but told only while the trial runs.
RUNNING = {
    "lr": "Learning rate of the backbone",
    "images_per_second": "Training images a second, of all the trial's workers",
    "train_seconds": "Seconds of training, validation not counted",
    "data_wait_seconds": "Seconds of these in which the worker that waited longest had no batch",
    "gpu_memory_bytes": "Most GPU memory that tensors took at once, of the worker where that was most",
    "router_entropy": "Mean entropy of the routers' choices, 0 (always one sub-block) to 1 (all alike)",
    "router_switched": "Share of probe tokens that chose otherwise than at the epoch's beginning",
    "routers_collapsed": "Routers that send nearly all tokens one way",
}
TRIAL = {
    "s3_bytes": "Bytes that the trial has fetched from S3",
    "losses": "Times that the trial has lost workers, or its own process, and went on from its last checkpoint",
}


class Metrics:
    """Follows a sweep in its driver, a process that outlives all trials: what a trial's worker tells ends with the worker, often before
    Prometheus has come by. Tells within a `with` block, in which Ray must be connected.

    Args:
        labels: `sweep` and `dataset`.
        records: of earlier sessions' trials.
    """

    def __init__(self, labels: dict[str, str], records: list[TrialRecord]) -> None:
        self._labels = labels
        # What an earlier session cut doesn't run until it is started again.
        self._followed = {record.number: record for record in records if record.state != "running"}
        texts = {**REACHED, **RUNNING, **TRIAL}
        self._gauges = {name: Gauge(f"dfml_{name}", text, TAGS) for name, text in texts.items()}
        self._load = Gauge("dfml_router_load", "Share of a router's tokens through a sub-block", (*TAGS, "router", "sub_block"))  # fmt: skip
        self._trials = Gauge("dfml_trials", "The search's trials by state; stopped: early", (*TAGS[:2], "state"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_telling, name="metrics", daemon=True)

    def __enter__(self) -> Metrics:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def started(self, record: TrialRecord) -> None:
        self._followed[record.number] = record

    def epoch(self, record: TrialRecord, last: int) -> None:
        self._tell(record)

    def ended(self, record: TrialRecord) -> None:
        self._tell(record)

    def _keep_telling(self) -> None:
        """In a thread, because Tune's loop stands still between the search and the winner's training, and while the storage is slow."""
        while True:
            for record in list(self._followed.values()):
                self._tell(record)
            states = Counter(record.state for record in list(self._followed.values()) if record.number >= 0)
            for state in get_args(State):
                self._trials.set(states[state], {**self._labels, "state": state})
            if self._ended.wait(AGAIN):
                return

    def _tell(self, record: TrialRecord) -> None:
        tags = {**self._labels, "trial": trial_label(record.number)}
        for name in TRIAL:
            self._gauges[name].set(getattr(record, name), tags)
        figures: dict[str, Any] = record.epochs[-1] if record.epochs else {}
        names = {**REACHED, **RUNNING} if record.state == "running" else REACHED
        for name in names.keys() & figures.keys():
            self._gauges[name].set(figures[name], tags)
        if record.state == "running":
            for router, row in enumerate(router_loads(figures)):
                for sub_block, load in enumerate(row):
                    self._load.set(load, {**tags, "router": str(router), "sub_block": str(sub_block)})
