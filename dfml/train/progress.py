"""Progress within a long epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

SECONDS = 30.0  # between two lines


class Progress:
    """Says now and then how far an epoch is; an epoch shorter than `SECONDS` stays silent. Called after every step.

    Args:
        say: takes a line.
        batch_size: images a step.
    """

    def __init__(self, say: Callable[[str], None], batch_size: int) -> None:
        self._say = say
        self._batch_size = batch_size
        self._said = time.monotonic()
        self._steps = 0  # since then

    def __call__(self, epoch: int, step: int, steps: int, terms: dict[str, Tensor]) -> None:
        if step == 1:
            self._said, self._steps = time.monotonic(), 0  # validation lies behind
        self._steps += 1
        passed = time.monotonic() - self._said
        if passed < SECONDS:
            return
        rate = self._steps / passed  # steps a second
        self._say(
            f"epoch {epoch}  step {step}/{steps}  loss {float(terms['loss']):.3f}  {rate * self._batch_size:.1f} images/s, "
            f"{(steps - step) / rate:.0f} s left"
        )
        self._said, self._steps = time.monotonic(), 0
