"""Ctrl-C and SIGTERM: the first asks Tune to save and stop, the second stops at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Interruption:
    """Handles SIGINT and SIGTERM from `install` on.

    Attributes:
        count: signals seen. Tune doesn't tell an interrupted sweep from a finished one, so this is what to ask.
    """

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Must follow `ray.init`, which sets handlers of its own."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def forget_tune(self) -> None:
        """Must follow each run of Tune, which leaves its handler in place: a signal would be lost until the next run, and in it."""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        # While Tune runs it treats SIGUSR1 as "save the state, stop the trials, return".
        if self.count == 1 and callable(signal.getsignal(signal.SIGUSR1)):
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            raise KeyboardInterrupt
