"""Throughput of an epoch, by a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from dfml.data.streaming.loader import Batch
from dfml.train import pace
from dfml.train.pace import ThroughputMeter


def test_images_a_second_and_the_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def loader() -> Iterator[Batch]:
        for size in (4, 4, 2):
            now[0] += 1.5  # seconds to load a batch
            yield torch.zeros(size, 3, 8, 8), torch.zeros(size, dtype=torch.int64)

    measured = ThroughputMeter(torch.device("cpu"))
    for _ in measured.timed(loader()):
        now[0] += 0.5  # a step
    metrics = measured.metrics()
    assert metrics == {"images_per_second": pytest.approx(10 / 6.0), "data_wait_seconds": pytest.approx(4.5)}
