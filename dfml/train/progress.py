"""Progress lines within a long epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

REPORT_SECONDS = 30.0  # between two lines


class Progress:
    """Print the progress of an epoch every `REPORT_SECONDS`. Call it after every step.

    Args:
        write_line: the function that prints a line.
        batch_size: the images per step.
    """

    def __init__(self, write_line: Callable[[str], None], batch_size: int) -> None:
        self._write_line = write_line
        self._batch_size = batch_size
        self._said = time.monotonic()
        self._steps = 0  # since the last line

    def __call__(self, epoch: int, step: int, steps: int, terms: dict[str, Tensor]) -> None:
        # The time before the first step was spent on validation.
        if step == 1:
            self._said, self._steps = time.monotonic(), 0
        self._steps += 1
        passed = time.monotonic() - self._said
        if passed < REPORT_SECONDS:
            return
        rate = self._steps / passed  # steps per second
        self._write_line(
            f"epoch {epoch}  step {step}/{steps}  loss {float(terms['loss']):.3f}  "
            f"{rate * self._batch_size:.1f} images/s, {(steps - step) / rate:.0f} s left"
        )
        self._said, self._steps = time.monotonic(), 0
