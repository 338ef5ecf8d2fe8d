"""Progress lines within a long epoch."""

from __future__ import annotations

import re

import pytest
import torch

from dfml.train import progress
from dfml.train.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_half_minute_with_rate_and_time_left(clock: list[float]) -> None:
    said: list[str] = []
    report = Progress(said.append, batch_size=8)
    for step in range(1, 21):
        report(3, step, 20, {"loss": torch.tensor(1.25)})
        clock[0] += 6.0
    assert len(said) == 3
    assert said[0] == "epoch 3  step 6/20  loss 1.250  1.6 images/s, 70 s left"
    assert re.match(r"epoch 3  step 11/20 .* 1\.3 images/s, 54 s left", said[1])


def test_a_short_epoch_is_silent_however_long_validation_takes(clock: list[float]) -> None:
    said: list[str] = []
    report = Progress(said.append, batch_size=8)
    for epoch in range(1, 4):
        for step in range(1, 4):
            report(epoch, step, 3, {"loss": torch.tensor(1.25)})
            clock[0] += 1.0
        clock[0] += 100.0
    assert said == []
