"""What follows a sweep from outside: told of every trial's start, epochs and end."""

from __future__ import annotations

from typing import Protocol

from orchestration.records import TrialRecord


class Follower(Protocol):
    """Called in the driver, within Tune's loop: it must neither raise, which would end all trials, nor take long."""

    def started(self, record: TrialRecord) -> None:
        """A trial, or a run of the winner, has been started in this session; it may have epochs of earlier sessions."""

    def epoch(self, record: TrialRecord, last: int) -> None:
        """An epoch's figures, `record.epochs[-1]`, have come in; `last` is the number of the trial's last epoch."""

    def ended(self, record: TrialRecord) -> None:
        """It has finished, failed or been stopped; what an interruption cuts isn't told."""
