"""The gauges within an epoch: how often they are set, and the rate of the steps in between."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from orchestration.callbacks import prometheus
from orchestration.callbacks.prometheus import StepGauges


class Told:
    """A stand-in for Ray's gauges, which need a cluster; it keeps the values."""

    values: ClassVar[dict[str, list[float]]] = {}

    def __init__(self, name: str, text: str, tags: tuple[str, ...]) -> None:
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags == {"trial": "3"}
        Told.values.setdefault(self.name, []).append(value)


def test_steps_are_told_every_few_seconds_and_at_an_epochs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(prometheus, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(prometheus, "Gauge", Told)
    Told.values = {}
    on_step = StepGauges({"trial": "3"}, batch_size=10)
    terms: dict[str, Any] = {"loss": torch.tensor(2.0)}
    for step in range(7, 20):  # an epoch of 19 steps, resumed after the sixth
        on_step(2, step, 19, terms)
        now[0] += 1.0
    assert Told.values["dfml_step"] == [12.0, 17.0, 19.0]
    assert Told.values["dfml_step_images_per_second"] == [pytest.approx(10.0)] * 3
    on_step(3, 1, 1, terms)  # an epoch of a single step has no rate
    assert Told.values["dfml_step"][-1] == 1.0
    assert len(Told.values["dfml_step_images_per_second"]) == 3
    assert set(Told.values["dfml_step_loss"]) == {2.0}
