"""Decay schedules against torch's own schedulers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, StepLR

from dfml.schedule import SCHEDULES, CosineDecay, ExponentialDecay, Schedule, StepDecay

EPOCHS = 25


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        (StepDecay(step=5, gamma=0.5), lambda o: StepLR(o, 5, 0.5)),
        (StepDecay(step=1, gamma=0.25), lambda o: StepLR(o, 1, 0.25)),
        (StepDecay(step=40, gamma=0.1), lambda o: StepLR(o, 40, 0.1)),
        (ExponentialDecay(gamma=0.8), lambda o: ExponentialLR(o, 0.8)),
        (CosineDecay(), lambda o: CosineAnnealingLR(o, T_max=EPOCHS)),
    ],
)
def test_factor_is_that_of_torch(schedule: Schedule, reference: Callable[[torch.optim.Optimizer], LRScheduler]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = reference(optimizer)
    for epoch in range(1, EPOCHS + 1):
        assert schedule.factor(epoch, EPOCHS) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_first_epoch_is_at_the_full_rate_and_none_at_a_higher_or_at_0(kind: str) -> None:
    factors = [SCHEDULES[kind]().factor(epoch, 60) for epoch in range(1, 61)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert 0 < factors[-1] < 1
