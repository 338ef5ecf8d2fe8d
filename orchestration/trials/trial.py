"""A trial of the sweep, and the winner's retraining: each one Ray Train run with its own folder under `trials/`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR

from dfml import storage
from dfml.task import SCORE
from orchestration import layout
from orchestration.reports import FAILED, UNFIT
from orchestration.trials import worker
from orchestration.trials.rendezvous import Rendezvous
from orchestration.trials.trainer import TrialTrainer, is_final, reason_of

RESIZE_SECONDS = 15
MAX_LOSSES = 5  # of workers within one epoch; a node that Ray knows to be taken away (spot) isn't counted


def run_trial(config: dict[str, Any]) -> None:
    """The function Ray Tune calls for a trial: drives one Ray Train run and passes its reports on to Tune.

    Args:
        config: `number`, `recipe`, and `job`: `sweep` and `data` (places), `labels` (of metrics), `seed`, `epochs`, `workers`,
            `min_workers`, `cpus`, `gpu`.
    """
    _fit(worker.train_trial, config, layout.trial_folder(config["number"]), _best_and_last())


def run_winner(config: dict[str, Any]) -> None:
    """As `run_trial`, for a run of the winner on all training classes, scored on the test classes."""
    scored = config["job"]["protocol"] == "paper"  # each epoch is; else only the last
    keep = _best_and_last() if scored else CheckpointConfig(num_to_keep=1)
    _fit(worker.train_winner, config, layout.trial_folder(config["number"]), keep)


def _best_and_last() -> CheckpointConfig:
    """The epoch with the best score and the last, which Ray keeps besides to resume from."""
    return CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max")


def _fit(loop: Callable[[dict[str, Any]], None], config: dict[str, Any], name: str, keep: CheckpointConfig) -> None:
    """Run `loop` in the trial's workers; a run of the same name goes on from its last checkpoint."""
    job = config["job"]
    trials = storage.join(job["sweep"], layout.TRIALS)
    resources = {"CPU": job["cpus"]} | ({"GPU": 1} if job["gpu"] else {})
    workers: int | tuple[int, int] = job["workers"]
    if job["min_workers"] < job["workers"]:
        # A group that shrinks when a node is lost, and grows again when there is another. Ray learns of a lost node some seconds late: it
        # tries the old size, and a smaller one only when that can't be placed in time.
        workers = job["min_workers"], job["workers"]
        os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(RESIZE_SECONDS)
    trainer = TrialTrainer(
        loop,
        train_loop_config={
            **job,
            "recipe": config["recipe"],
            "trial": storage.join(trials, name),
            "labels": {**job["labels"], "trial": layout.trial_label(config["number"])},
        },
        backend_config=Rendezvous(),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=job["gpu"], resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=trials,
            checkpoint_config=keep,
            failure_config=FailureConfig(max_failures=MAX_LOSSES, controller_failure_limit=MAX_LOSSES),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        # Raised, it would be tried again as a lost trial is.
        tune.report({FAILED: reason_of(error), UNFIT: is_final(error)})
