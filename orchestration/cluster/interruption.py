"""Ctrl-C and SIGTERM: the first asks Tune to save and stop, the second stops at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Interruption:
    """Handle SIGINT and SIGTERM after `install`.

    Attributes:
        count: number of signals received. Tune ends alike after an interruption and after all
            trials; only this number differs.
    """

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Install the handlers; call this after `ray.init`, which sets its own."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def forget_tune(self) -> None:
        """Remove the handler that Tune leaves in place; call this after each run of Tune.

        Otherwise a signal would be lost until the next run, and during it.
        """
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        # Tune takes SIGUSR1 as the request to save its state, stop the trials and return.
        if self.count == 1 and callable(signal.getsignal(signal.SIGUSR1)):
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            raise KeyboardInterrupt
