"""Ray Train's data-parallel trainer with fewer processes a trial, and with our word on what is worth a retry.

Ray's own `TorchTrainer` starts, beside the workers, a controller, a queue to Tune and a watcher of placement groups: processes
that each take a second or more to start, and torch in two of them. Here the controller runs in the trial's own process, which
has nothing else to do, and reports to Tune from there; `placement` removes what a killed trial leaves behind; and the workers
set up torch's process group themselves (`rendezvous`), so that torch is imported only where training happens.

Where no public option exists this uses Ray's internals; constraints.txt holds the version that it is tested with.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.train import ControllerError, Result, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import RayTrainCallback, ReportCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client as reservations
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from dfml import storage
from dfml.errors import InvalidInput
from orchestration.reports import LOST, RESUMED, S3_BYTES, WORKER_SECONDS, WORKERS
from orchestration.trials.failure import LESS_MEMORY, Final
from orchestration.trials.retention import SNAPSHOT
from orchestration.trials.unfinished import UnfinishedEpoch

# A trial that is killed, as every one that is stopped early, can't give back what it has reserved; for three minutes, as Ray has it, no
# elastic trial would start.
reservations.AUTOSCALING_REQUESTS_INTERVAL_S = 5  # seconds between renewals
reservations.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = 15


class TellTune(WorkerGroupCallback, ReportCallback):
    """Passes rank 0's reports on to Tune, and says when workers have started; as Ray's `TuneReportCallback` does with an actor in between."""

    def __init__(self) -> None:
        self.lost: str | None = None  # why workers have to be started anew
        self.epoch_ended = False  # since the last loss
        self._workers = 0
        self._since = 0.0
        self._fetched = 0

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._workers, self._since, self._fetched = len(worker_group), time.monotonic(), 0
        tune.report({WORKERS: self._workers, LOST: self.lost})
        self.lost = None

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        self.epoch_ended |= not metrics[0].get(RESUMED, False)
        before, self._fetched = self._fetched, sum(figures[S3_BYTES] for figures in metrics)
        tune.report({**metrics[0], S3_BYTES: self._fetched - before, WORKER_SECONDS: self._held()})

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        tune.report({WORKERS: 0, WORKER_SECONDS: self._held()})

    def _held(self) -> float:
        now = time.monotonic()
        held, self._since = self._workers * (now - self._since), now
        return held


class RetryLosses(DefaultFailurePolicy):
    """Lost workers are worth a retry, unless it happens again and again with no checkpoint in between; an error that would come again isn't.

    Workers that wait for their resources haven't failed; `Watch` says what they wait for.

    Args:
        trial: the trial's folder or URI.
        tell: knows of the epochs that have ended.
    """

    def __init__(self, *args: Any, trial: str, tell: TellTune) -> None:
        super().__init__(*args)
        self._tell = tell
        self._unfinished = UnfinishedEpoch(trial)
        self._reached: str | None = None  # within an epoch, when workers were lost last

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        error = training_failed_error
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return FailureDecision.RETRY
        if isinstance(error, WorkerGroupError) and is_final(error):
            return FailureDecision.RAISE
        if self._came_on():
            self._worker_group_failures = self._controller_failures = 0
        self._tell.lost = reason_of(error)
        return super().make_decision(error)

    def _came_on(self) -> bool:
        """Whether there is a checkpoint that wasn't there at the last loss."""
        before, ended = self._reached, self._tell.epoch_ended
        self._tell.epoch_ended = False
        with contextlib.suppress(OSError, InvalidInput):  # the storage may be what was lost
            self._reached = self._unfinished.reached()
        return ended or self._reached not in (None, before)


class TrialTrainer(DataParallelTrainer):
    """Runs a train loop in the workers of a trial, with Ray Train's controller in this process: the one in which Tune runs the trial."""

    @property
    def _folder(self) -> str:
        return storage.join(str(self.run_config.storage_path), str(self.run_config.name))

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        # Not through RunConfig: that goes to the workers, which would import ray.tune to unpickle it.
        self._tell = TellTune()
        needless = PlacementGroupCleanerCallback, DatasetsCallback  # an actor each; our data don't come through Ray
        return [*(c for c in super()._create_default_callbacks() if not isinstance(c, needless)), self._tell]

    def _initialize_and_run_controller(self, **controller: Any) -> Result:
        controller["failure_policy"] = RetryLosses(self.run_config.failure_config, trial=self._folder, tell=self._tell)
        running = TrainController(**controller)
        # Ray writes over the old snapshot in place; a process that is killed meanwhile would leave half of one, and no checkpoint.
        manager, place = running._checkpoint_manager, storage.join(self._folder, SNAPSHOT)
        manager._write_state_to_storage = lambda: storage.write(place, manager._save_state().encode())
        asyncio.run(running.run())
        return running.get_result()


def is_final(error: WorkerGroupError) -> bool:
    """Whether a retry would be in vain. One worker's word is enough: the others fail because it did."""
    return any(isinstance(failure, Final) or _ended_for_memory(failure) for failure in error.worker_failures.values())


def reason_of(error: TrainingFailedError) -> str:
    """Why a training failed, in a line: what a worker called final before all else."""
    if isinstance(error, WorkerGroupError):
        failures = sorted(error.worker_failures.items(), key=lambda item: (not isinstance(item[1], Final), item[0]))
        rank, failure = failures[0]
        if isinstance(failure, Final):
            return str(failure)
        if _ended_for_memory(failure):
            return f"out of memory on the host, Ray ended worker {rank}: {LESS_MEMORY}"
        return f"worker {rank}: {_in_a_line(getattr(failure, 'health_check_failure', failure))}"
    return _in_a_line(getattr(error, "controller_failure", error))


def _ended_for_memory(failure: Exception) -> bool:
    return isinstance(failure, OutOfMemoryError) or "low on memory" in str(failure)


def _in_a_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
