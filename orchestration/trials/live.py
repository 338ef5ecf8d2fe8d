"""How far an epoch is, for Prometheus: a long one tells nothing else until it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ray.util.metrics import Gauge

if TYPE_CHECKING:
    from torch import Tensor

# Between two looks at the loss, which wait for the GPU. Ray tells a gauge's value once after it was set, every ten seconds.
SECONDS = 5.0
LIVE = {
    "step": "Steps of the running epoch that are done",
    "steps": "Steps of the epoch",
    "step_loss": "Training loss of one step",
    "step_images_per_second": "Training images a second, of all the trial's workers, over the last seconds",
}


class Live:
    """Called after every step by the first worker of a trial; its gauges end with the worker.

    Args:
        labels: `sweep`, `dataset` and `trial`.
        batch_size: images a step.
    """

    def __init__(self, labels: dict[str, str], batch_size: int) -> None:
        self._labels = labels
        self._batch_size = batch_size
        self._gauges = {name: Gauge(f"dfml_{name}", text, tuple(labels)) for name, text in LIVE.items()}
        self._epoch = self._step = 0
        self._since = 0.0  # when that step was done, on the monotonic clock

    def __call__(self, epoch: int, step: int, steps: int, terms: dict[str, Tensor]) -> None:
        now = time.monotonic()
        if epoch != self._epoch:  # validation lies behind
            self._epoch, self._step, self._since = epoch, step, now
        # An epoch's last step too: the GPU is waited for there anyway.
        if now - self._since < SECONDS and step < steps:
            return
        values = {"step": float(step), "steps": float(steps), "step_loss": float(terms["loss"])}
        now = time.monotonic()  # when the steps have really been computed
        if step > self._step:
            values["step_images_per_second"] = (step - self._step) * self._batch_size / (now - self._since)
        for name, value in values.items():
            self._gauges[name].set(value, self._labels)
        self._step, self._since = step, now
