"""The callback interface of a sweep, for console, study, Prometheus and trackers of experiments."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from orchestration.job import SweepSettings
from orchestration.sweep_folder.records import TrialRecord


class SweepCallback:
    """Handle the events of a sweep, its trials and the winner's runs; by default do nothing.

    The methods run in the driver, those of trials in Tune's loop: they must neither raise, which
    would end all trials, nor take long.
    """

    def sweep_started(self, settings: SweepSettings) -> None:
        """Handle the start of a session of the sweep, before any trial's."""

    def trial_started(self, record: TrialRecord) -> None:
        """Handle a trial's start in this session; it may have epochs of earlier sessions."""

    def trial_waits(self, record: TrialRecord, reason: str) -> None:
        """Handle a trial that has been waiting for its workers for some time."""

    def workers_started(self, record: TrialRecord, workers: int, wanted: int) -> None:
        """Handle the start of a trial's workers, which may be fewer than wanted."""

    def trial_restarted(self, record: TrialRecord, reason: str) -> None:
        """Handle a trial that resumes from its last checkpoint, after a loss or out of memory."""

    def epoch_ended(self, record: TrialRecord, last: int) -> None:
        """Handle an epoch's metrics, `record.epochs[-1]`; `last` is the trial's last epoch."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Handle a trial that has finished, failed or been stopped; interruption isn't an end."""

    def sweep_ended(self, record: TrialRecord, test: dict[str, float], pictures: Sequence[str]) -> None:
        """Handle the sweep's end, when its report and the model in `best/` are written.

        Args:
            record: the record of the winner's run whose model is kept.
            test: its metrics on the test classes.
            pictures: the names of the retrievals' pictures in `report/`.
        """


class Tracker(SweepCallback):
    """A tracker of experiments: it works within a `with` block, and its data have an address."""

    name: str

    @property
    def where(self) -> str:
        """Return where its data are, for the user."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left; after an error, without delay."""
