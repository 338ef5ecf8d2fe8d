"""A trial of the sweep, and the winner's retraining: each one Ray Train run with its own folder under `trials/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

from dfml import storage
from dfml.task import SCORE
from orchestration import layout, worker

MAX_FAILURES = 2  # times that a run is started anew from its last checkpoint when a worker dies


def run_trial(config: dict[str, Any]) -> None:
    """The function Ray Tune calls for a trial: drives one Ray Train run and passes its reports on to Tune.

    Args:
        config: `number`, `recipe`, and `job`: `sweep` and `data` (places), `seed`, `epochs`, `workers`, `cpus`, `gpu`.
    """
    # The best epoch by validation and the last, which Ray keeps besides to resume from.
    keep = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max")
    _fit(worker.train_trial, config, layout.trial_folder(config["number"]), keep)


def run_winner(config: dict[str, Any]) -> None:
    """As `run_trial`, for the retraining of the winner on all training classes."""
    _fit(worker.train_winner, config, layout.WINNER, CheckpointConfig(num_to_keep=1))


def _fit(loop: Callable[[dict[str, Any]], None], config: dict[str, Any], name: str, keep: CheckpointConfig) -> None:
    """Run `loop` in the trial's workers, DDP over gloo or nccl; a run of the same name goes on where it stopped."""
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    job = config["job"]
    trials = storage.join(job["sweep"], layout.TRIALS)
    resources = {"CPU": job["cpus"]} | ({"GPU": 1} if job["gpu"] else {})
    TorchTrainer(
        loop,
        train_loop_config={"recipe": config["recipe"], "trial": storage.join(trials, name), **job},
        scaling_config=ScalingConfig(num_workers=job["workers"], use_gpu=job["gpu"], resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=trials,
            callbacks=[TuneReportCallback()],
            checkpoint_config=keep,
            # The controller's own failures, such as workers that can't be placed, are retried without end by default.
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
        ),
    ).fit()
