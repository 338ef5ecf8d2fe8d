"""The recorder of a sweep: saves the trials' records and calls the callbacks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from dfml.errors import InvalidInput
from orchestration.callback import SweepCallback
from orchestration.callbacks.console import Console
from orchestration.cluster.interruption import Interruption
from orchestration.job import TrialJob, job_in
from orchestration.messages import EpochReport, Traffic, TrialFailed, WorkersEnded, WorkersStarted, message_in
from orchestration.search.budget_stopper import OVER_BUDGET, BudgetStopper
from orchestration.sweep_folder.records import TrialRecord
from orchestration.trials.checkpoints import clear_partial
from orchestration.trials.failure import process_failure

RETRY_SAVE_SECONDS = 30.0  # until records that couldn't be saved are saved again


class Recorder(tune.Callback):
    """Keep the records of a sweep up to date, and decide how each trial has ended.

    Args:
        sweep: the sweep's folder or URI.
        records: the records of earlier sessions, ordered by number; new ones are appended.
        console: the console for a warning when records can't be saved.
        interruption: the state of the user's request to stop.
        stopper: the stopper of the search's budget; None for runs without a budget.
        callbacks: the callbacks to call for each event.
    """

    def __init__(
        self,
        sweep: str,
        records: list[TrialRecord],
        console: Console,
        interruption: Interruption,
        stopper: BudgetStopper | None,
        callbacks: Sequence[SweepCallback] = (),
    ) -> None:
        self._sweep = sweep
        self._records = records
        self._console = console
        self._interruption = interruption
        self._stopper = stopper
        self._callbacks = callbacks
        self._started: set[str] = set()  # folders of the trials started in this session
        self._unsaved: dict[str, TrialRecord] = {}  # by folder
        self._tried = 0.0  # monotonic time of the last attempt to save them

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # Tune pickles its callbacks to restore them; here each session starts from the records.
        return tune.Callback, ()

    def record_of(self, trial: Trial) -> TrialRecord:
        """Return the record of one of Tune's trials; create it at the trial's first start."""
        job: TrialJob = job_in(trial.config)
        for record in self._records:
            if (record.kind, record.number) == (job.kind, job.number):
                return record
        self._records.append(job.record())
        return self._records[-1]

    def _save(self, record: TrialRecord) -> None:
        record.seen = time.time()
        self._unsaved[record.folder] = record
        self._save_unsaved()

    def _save_unsaved(self) -> None:
        """Save records, or keep them for later.

        An exception in a callback would end all trials, and the storage may be back in minutes.
        """
        try:
            for folder, record in list(self._unsaved.items()):
                record.save(self._sweep)
                del self._unsaved[folder]
            if self._stopper is not None:
                self._stopper.elapsed.save()
        except (OSError, InvalidInput) as error:
            self._tried = time.monotonic()
            self._console.print(
                f"records can't be saved ({error}); the sweep continues, and saving is tried again", style="yellow"
            )

    def finish(self) -> None:
        """Save the records that couldn't be saved during the run.

        Raises:
            OSError: the storage still fails.
        """
        for record in self._unsaved.values():
            record.save(self._sweep)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._unsaved and time.monotonic() - self._tried >= RETRY_SAVE_SECONDS:
            self._save_unsaved()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self.record_of(trial)
        now = time.time()
        record.began = record.began or now
        # An attempt whose end was interrupted may have left these.
        record.reason, record.unfit = None, False
        if record.folder in self._started:
            # Tune starts the trial again because its own process was lost.
            self._restarted(record, "the trial's own process has ended unexpectedly")
        else:
            self._started.add(record.folder)
            record.paused += now - record.seen if record.seen is not None else 0.0
            for callback in self._callbacks:
                callback.trial_started(record)
        self._save(record)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record, job, message = self.record_of(trial), job_in(trial.config), message_in(result)
        if isinstance(message, WorkersEnded | EpochReport | Traffic):
            hours = message.worker_seconds / 3600
            record.cpu_hours += hours * job.settings.cpus
            record.gpu_hours += hours * job.settings.gpus
        if isinstance(message, EpochReport | Traffic):
            record.s3_bytes += message.s3_bytes
        if isinstance(message, WorkersStarted):
            record.workers_started = record.workers_started or time.time()
            record.parts, record.loader_workers = message.parts, message.loader_workers
            if message.restart_reason is not None:
                self._restarted(record, message.restart_reason)
            for callback in self._callbacks:
                callback.workers_started(record, message.workers, job.settings.workers)
        if isinstance(message, TrialFailed):
            record.reason, record.unfit = message.reason, message.unfit
        if isinstance(message, EpochReport):
            if record.add(message.metrics):
                self._save(record)
                for callback in self._callbacks:
                    callback.epoch_ended(record, job.epochs)
            elif not message.resumed:
                record.repeated_epochs += 1

    def _restarted(self, record: TrialRecord, reason: str) -> None:
        record.restarts += 1
        for callback in self._callbacks:
            callback.trial_restarted(record, reason)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self.record_of(trial)
        if self._interruption.count:
            return  # Tune also reports interrupted trials as complete
        if record.reason is not None:
            record.state = "failed"
        elif record.epochs and record.epochs[-1]["epoch"] >= job_in(trial.config).epochs:
            record.state = "finished"
        else:
            record.state = "stopped"
            record.reason = OVER_BUDGET if self._stopper is not None and self._stopper.reached() else None
        self._end(record)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self.record_of(trial)
        record.state, record.reason = "failed", process_failure(trial)
        self._end(record)

    def _end(self, record: TrialRecord) -> None:
        record.ended = time.time()
        self._save(record)
        for callback in self._callbacks:
            callback.trial_ended(record)
        # If this fails, the sweep clears again at its end.
        with contextlib.suppress(OSError, InvalidInput):
            clear_partial(self._sweep, record.folder)
