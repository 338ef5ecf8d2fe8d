"""The callback interface of a sweep, for console, study, Prometheus and Weights & Biases."""

from __future__ import annotations

from orchestration.sweep_folder.records import TrialRecord


class SweepCallback:
    """Handle the events of trials and of the winner's runs in the driver; by default do nothing.

    The methods run in Tune's loop: they must neither raise, which would end all trials, nor take
    long.
    """

    def trial_started(self, record: TrialRecord) -> None:
        """Handle a trial's start in this session; it may have epochs of earlier sessions."""

    def trial_waits(self, record: TrialRecord, reason: str) -> None:
        """Handle a trial that has been waiting for its workers for some time."""

    def workers_started(self, record: TrialRecord, workers: int, wanted: int) -> None:
        """Handle the start of a trial's workers, which may be fewer than wanted."""

    def trial_restarted(self, record: TrialRecord, reason: str) -> None:
        """Handle the loss of a trial's workers or process; it resumes from its last checkpoint."""

    def epoch_ended(self, record: TrialRecord, last: int) -> None:
        """Handle an epoch's metrics, `record.epochs[-1]`; `last` is the trial's last epoch."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Handle a trial that has finished, failed or been stopped; interruption isn't an end."""
