"""Decay schedules: pure functions from the epoch to a factor, so that resuming needs no state.

A new schedule is a class here, and an entry in `Schedule` and `SCHEDULES`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from dfml.strict_model import StrictModel


class StepDecay(StrictModel):
    """Multiply by `gamma` every `step` epochs: the publication's schedule."""

    kind: Literal["step"] = "step"
    step: int = Field(default=10, ge=1)  # epochs
    gamma: float = Field(default=0.5, gt=0, le=1)

    def factor(self, epoch: int, epochs: int) -> float:
        return float(self.gamma ** ((epoch - 1) // self.step))


class CosineDecay(StrictModel):
    """Follow half a cosine from 1 towards 0 over all epochs of the recipe."""

    kind: Literal["cosine"] = "cosine"

    def factor(self, epoch: int, epochs: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


class ExponentialDecay(StrictModel):
    """Multiply by `gamma` every epoch."""

    kind: Literal["exponential"] = "exponential"
    gamma: float = Field(default=0.9, gt=0, le=1)

    def factor(self, epoch: int, epochs: int) -> float:
        return float(self.gamma ** (epoch - 1))


# factor(epoch, epochs): `epoch` counts from 1, `epochs` is the recipe's length.
Schedule = Annotated[StepDecay | CosineDecay | ExponentialDecay, Field(discriminator="kind")]
SCHEDULES: dict[str, type[StrictModel]] = {"step": StepDecay, "cosine": CosineDecay, "exponential": ExponentialDecay}
