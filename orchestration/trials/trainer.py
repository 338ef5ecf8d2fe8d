"""Ray Train's data-parallel trainer with fewer processes per trial and our own retry policy.

Besides the workers, Ray's `TorchTrainer` starts a controller, a queue to Tune and a watcher of
placement groups; each takes a second or more, and two of them import torch. Here the controller
runs in the trial's own process, which is idle anyway, and reports to Tune from there; `placement`
removes the placement groups of killed trials; and the workers set up the process group themselves
(`process_group`), so that only they import torch.

If no public option exists, this uses Ray's internals; constraints.txt pins the tested version.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import replace
from typing import Any

from ray import tune
from ray.train import ControllerError, Result, TrainingFailedError

from dfml import storage
from dfml.errors import InvalidInput
from orchestration.cluster.ray_internals import (
    SNAPSHOT,
    DataParallelTrainer,
    DatasetsCallback,
    DefaultFailurePolicy,
    FailureDecision,
    PlacementGroupCleanerCallback,
    RayTrainCallback,
    ReportCallback,
    TrainController,
    WorkerGroupCallback,
    WorkerGroupStartupTimeoutError,
    forget_failures,
    shorten_reservations,
    write_snapshot_by,
)
from orchestration.job import TrialJob, job_in
from orchestration.messages import EpochReport, Traffic, WorkersEnded, WorkersStarted, message_in, result_of
from orchestration.trials.checkpoints import MidEpochCheckpoint
from orchestration.trials.failure import Failure, training_failure
from orchestration.trials.memory import MemoryUse, memory_use, store

# A killed trial, for example one that is stopped early, can't release its reservation. With Ray's
# default expiry, no elastic trial could start for three minutes.
shorten_reservations(renewal_seconds=5, expiry_seconds=15)


class TuneReporter(WorkerGroupCallback, ReportCallback):
    """Pass rank 0's reports on to Tune, and report when workers have started or ended.

    Ray's `TuneReportCallback` passes reports on as well, but through one actor per trial.

    Args:
        memory: how much memory the first workers use.
    """

    def __init__(self, memory: MemoryUse) -> None:
        self.memory = memory  # of the next workers
        self.restart_reason: str | None = None  # why workers have to be started again
        self.epoch_ended = False  # since the last failure
        self._workers = 0  # at the last start
        self._since = 0.0
        self._fetched = 0

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._workers, self._since, self._fetched = len(worker_group), time.monotonic(), 0
        use = self.memory
        tune.report(result_of(WorkersStarted(self._workers, self.restart_reason, use.parts, use.loader_workers)))
        self.restart_reason = None

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        reports = [message_in(each) for each in metrics]
        sent = [report for report in reports if isinstance(report, EpochReport | Traffic)]
        self.epoch_ended |= not getattr(sent[0], "resumed", False)
        before, self._fetched = self._fetched, sum(report.s3_bytes for report in sent)
        total = replace(sent[0], s3_bytes=self._fetched - before, worker_seconds=self._worker_seconds())
        tune.report(result_of(total))

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        tune.report(result_of(WorkersEnded(self._worker_seconds())))

    def images(self, batch_size: int) -> int:
        """Return the images of a batch on each worker, of which the last may have fewer."""
        return math.ceil(batch_size / max(1, self._workers))

    def _worker_seconds(self) -> float:
        """Return the worker-seconds since the previous call."""
        now = time.monotonic()
        held, self._since = self._workers * (now - self._since), now
        return held


class RetryPolicy(DefaultFailurePolicy):
    """Retry after lost workers, up to a number of times in a row without a new checkpoint.

    After memory ran out, the next workers use less of it; that isn't counted, and ends when nothing
    is left to reduce. Other errors that would happen again aren't retried. Workers that wait for
    resources haven't failed; `PlacementMonitor` reports what they wait for.

    Args:
        job: the trial's job.
        reporter: the reporter that knows whether an epoch has ended.
    """

    def __init__(self, *args: Any, job: TrialJob, reporter: TuneReporter) -> None:
        super().__init__(*args)
        self._job = job
        self._reporter = reporter
        self._mid_epoch = MidEpochCheckpoint(job.uri)
        # The checkpoint within an epoch at the last failure.
        self._reached: str | None = None
        self._before: Failure | None = None  # the last failure

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        error = training_failed_error
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return FailureDecision.RETRY
        failure = training_failure(error)
        new = self._has_new_checkpoint()
        if new:
            forget_failures(self)
        before, self._before = None if new else self._before, failure
        self._reporter.restart_reason = failure.reason
        if failure.retryable:
            # Workers that vanish once are taken for lost. After another failure, the kernel may
            # have killed them for lack of memory.
            may_reduce = failure.memory is not None and before is not None
        elif failure.memory is None:
            return FailureDecision.RAISE
        else:
            # Killed processes may still hold the GPU's memory.
            may_reduce = failure.memory == "host" or before is None or not before.retryable
        try:
            reduced = may_reduce and self._use_less_memory(failure)
        except (OSError, InvalidInput):
            # The storage is unreachable or full; if that lasts, the trial ends.
            return super().make_decision(error)
        if failure.retryable:
            return super().make_decision(error)
        return FailureDecision.RETRY if reduced or not may_reduce else FailureDecision.RAISE

    def _use_less_memory(self, failure: Failure) -> bool:
        """Let the next workers use less memory; return whether they can."""
        assert failure.memory is not None
        before = self._reporter.memory
        less = before.less(failure.memory, self._reporter.images(self._job.recipe.batch_size))
        if less is None:
            return False
        store(self._job, less)
        self._reporter.memory = less
        self._reporter.restart_reason = f"{failure.reason.removesuffix('.')}; {less.since(before)}"
        return True

    def _has_new_checkpoint(self) -> bool:
        """Return whether there is a new checkpoint since the last failure."""
        before, ended = self._reached, self._reporter.epoch_ended
        self._reporter.epoch_ended = False
        # The storage itself may be unreachable.
        with contextlib.suppress(OSError, InvalidInput):
            self._reached = self._mid_epoch.reached()
        return ended or self._reached not in (None, before)


class TrialTrainer(DataParallelTrainer):
    """Run a train loop in a trial's workers, with Ray Train's controller in the trial's process."""

    @property
    def _job(self) -> TrialJob:
        assert self.train_loop_config is not None
        return job_in(self.train_loop_config)

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        # RunConfig is sent to the workers, which would import ray.tune to unpickle the callback.
        self._reporter = TuneReporter(memory_use(self._job))
        # Each of these starts an actor; our data don't pass through Ray.
        needless = PlacementGroupCleanerCallback, DatasetsCallback
        return [*(c for c in super()._create_default_callbacks() if not isinstance(c, needless)), self._reporter]

    def _initialize_and_run_controller(self, **controller: Any) -> Result:
        controller["failure_policy"] = RetryPolicy(
            self.run_config.failure_config, job=self._job, reporter=self._reporter
        )
        running = TrainController(**controller)
        uri = storage.join(self._job.uri, SNAPSHOT)
        write_snapshot_by(running, lambda content: storage.write(uri, content))
        asyncio.run(running.run())
        return running.get_result()
