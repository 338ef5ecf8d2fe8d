"""Trials and the winner's retraining, each one Ray Train run with its own folder in `trials/`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError

from dfml import storage
from dfml.protocol import PROTOCOLS
from dfml.task import SCORE
from orchestration.cluster.ray_internals import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from orchestration.job import TrialJob, config_of, job_in
from orchestration.messages import TrialFailed, result_of
from orchestration.sweep_folder import layout
from orchestration.trials import worker
from orchestration.trials.failure import training_failure
from orchestration.trials.process_group import TorchEnvBackend
from orchestration.trials.trainer import TrialTrainer

RESIZE_SECONDS = 15
# Restarts of workers without a new checkpoint in between; a spot node whose removal Ray knows of
# isn't counted.
MAX_RESTARTS = 5


def run_trial(config: dict[str, Any]) -> None:
    """Drive a trial's Ray Train run and pass its reports on to Tune, which calls this.

    Args:
        config: the configuration that holds a `TrialJob`.
    """
    _fit(worker.train_trial, job_in(config), _best_and_last())


def run_winner(config: dict[str, Any]) -> None:
    """Drive a run of the winner on all training classes, scored on the test classes.

    Args:
        config: the configuration that holds a `WinnerJob`.
    """
    job = job_in(config)
    scored = PROTOCOLS[job.settings.protocol].scores_on_test
    _fit(worker.train_winner, job, _best_and_last() if scored else CheckpointConfig(num_to_keep=1))


def _best_and_last() -> CheckpointConfig:
    """Keep the best epoch's checkpoint; Ray also keeps the last one, to resume from it."""
    return CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max")


def _fit(loop: Callable[[dict[str, Any]], None], job: TrialJob, keep: CheckpointConfig) -> None:
    """Run `loop` in the trial's workers, resumed from the last checkpoint in its folder."""
    settings = job.settings
    resources = {"CPU": settings.cpus} | ({"GPU": settings.gpus} if settings.gpus else {})
    workers: int | tuple[int, int] = settings.workers
    if settings.min_workers < settings.workers:
        # The group shrinks when a node is lost, and grows again when there is another. Ray notices
        # a lost node some seconds late: it tries the old size first, and a smaller one only if
        # that can't be placed in time.
        workers = settings.min_workers, settings.workers
        os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(RESIZE_SECONDS)
    trainer = TrialTrainer(
        loop,
        train_loop_config=config_of(job),
        backend_config=TorchEnvBackend(),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=settings.gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=job.folder,
            storage_path=storage.join(settings.sweep, layout.TRIALS),
            checkpoint_config=keep,
            failure_config=FailureConfig(max_failures=MAX_RESTARTS, controller_failure_limit=MAX_RESTARTS),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        # If this were raised, Tune would retry the trial, as it does after a lost process.
        failure = training_failure(error)
        tune.report(result_of(TrialFailed(failure.final_reason, unfit=failure.unfit)))
