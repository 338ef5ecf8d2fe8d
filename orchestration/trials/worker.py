"""The code of each Ray Train worker: `dfml`'s train loop, reporting to Ray after every epoch.

torch and the parts of dfml that need it are imported inside functions: a trial's own process also
imports this file, but doesn't need them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train

from dfml import s3
from dfml.protocol import PROTOCOLS
from orchestration.callbacks.prometheus import StepGauges
from orchestration.job import TrialJob, WinnerJob, job_in
from orchestration.messages import EpochReport, Traffic, result_of
from orchestration.trials.checkpoints import MidEpochCheckpoint, load, load_best, remove_stale_tempdirs, worker_tempdir
from orchestration.trials.failure import mark_non_retryable
from orchestration.trials.memory import memory_use
from orchestration.trials.outcome import count_evaluation
from orchestration.trials.process_group import init_process_group

if TYPE_CHECKING:
    from dfml.data.streaming.cache import Cache
    from dfml.data.streaming.evaluation_set import EvaluationSet
    from dfml.data.streaming.sharded_images import ShardedImages
    from dfml.data.streaming.split import ClassSubset
    from dfml.train import Training


@mark_non_retryable()
def train_trial(config: dict[str, Any]) -> None:
    """Train a trial and score every epoch.

    Epochs are scored on the held-out part of the training split, or (protocol `paper`) on the test
    classes.

    Args:
        config: the configuration that holds a `TrialJob`.
    """
    from dfml.data.streaming.split import training_and_validation

    job = job_in(config)
    if PROTOCOLS[job.settings.protocol].scores_on_test:
        training = _training(job, _all_training_classes(job), _test(job))
    else:
        images = _images(job, "train")
        training = _training(job, *training_and_validation(images, job.settings.seed, job.recipe.task))
    _train(training, job)


@mark_non_retryable()
def train_winner(config: dict[str, Any]) -> None:
    """Train the winner's recipe on all training classes, then score it on the test classes.

    Under protocol `holdout` it trains for as many epochs as the trial needed for its best score.
    Under `paper` the epoch is chosen on the test classes; if the trial was trained with the same
    seed, its best epoch is scored.

    Args:
        config: the configuration that holds a `WinnerJob`.
    """
    from dfml.distributed import rank
    from orchestration.trials.test_score import score_on_test, store

    job = job_in(config)
    assert isinstance(job, WinnerJob)
    test = _test(job)
    scores_on_test = PROTOCOLS[job.settings.protocol].scores_on_test
    training = _training(job, _all_training_classes(job), test if scores_on_test else None)
    if job.trained is not None:
        load_best(training, job.trained, job.epochs)
        _report(training, training.metrics)
    else:
        _train(training, job)
        if scores_on_test:
            load_best(training, job.uri, training.epoch)
    outcome = score_on_test(training, test, job)
    if rank() == 0:
        store(training, outcome, job)
    # The test images were fetched after the last epoch's report.
    ray.train.report(result_of(Traffic(s3.received())))


def _images(job: TrialJob, split: str) -> ShardedImages:
    from dfml.data.streaming.sharded_images import ShardedImages

    return ShardedImages(job.settings.data, split, _cache(job))


def _all_training_classes(job: TrialJob) -> ClassSubset:
    from dfml.data.streaming.split import subset_of_classes

    return subset_of_classes(_images(job, "train"))


def _test(job: TrialJob) -> EvaluationSet:
    from dfml.data.streaming.evaluation_set import images_for_test

    return images_for_test(job.settings.data, job.recipe.task, _cache(job))


def _cache(job: TrialJob) -> Cache:
    from dfml.data.streaming.cache import Cache, default_folder

    # The default folder depends on the node.
    folder = Path(job.settings.cache_dir) if job.settings.cache_dir else default_folder()
    return Cache(folder, job.settings.cache_size)


def _training(job: TrialJob, train: ClassSubset, validation: ClassSubset | EvaluationSet | None) -> Training:
    """Return this rank's training, resumed from the run's last checkpoint if there is one."""
    import torch

    from dfml.determinism import make_deterministic
    from dfml.train import Training

    remove_stale_tempdirs()
    if job.settings.deterministic:
        make_deterministic()
    device = init_process_group()
    torch.set_num_threads(job.settings.cpus)
    use = memory_use(job)
    recipe = job.recipe.model_copy(update={"gradient_accumulation": use.parts})
    training = Training(recipe, train, validation, device, use.loader_workers)
    if checkpoint := ray.train.get_checkpoint():
        load(training, checkpoint)
    MidEpochCheckpoint(job.uri).resume(training)
    return training


def _train(training: Training, job: TrialJob) -> None:
    """Train the remaining epochs and report each."""
    mid_epoch = MidEpochCheckpoint(job.uri)
    first = ray.train.get_context().get_world_rank() == 0
    if training.metrics:
        # Tune may have missed the last epoch before the interruption.
        _report(training, training.metrics, resumed=True)

    def keep() -> None:
        if first:
            mid_epoch.keep(training)

    def count() -> None:
        if first and PROTOCOLS[job.settings.protocol].scores_on_test:
            count_evaluation(job.uri)

    for metrics in training.epochs(
        job.epochs,
        on_step=StepGauges(job.labels, training.recipe.batch_size) if first else None,
        on_checkpoint=keep,
        checkpoint_steps=job.settings.checkpoint_steps,
        on_validation=count,
    ):
        _report(training, metrics)
        if first:
            mid_epoch.forget()


def _report(training: Training, metrics: dict[str, Any], resumed: bool = False) -> None:
    """Report an epoch's metrics to Ray, with a checkpoint from rank 0. All ranks must call it."""
    with worker_tempdir() as directory:
        checkpoint = None
        # In the middle of an epoch, the weights don't belong to the metrics.
        if ray.train.get_context().get_world_rank() == 0 and training.mid_epoch is None:
            training.save(directory)
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        report = EpochReport(metrics, resumed, s3.received())
        ray.train.report(result_of(report), checkpoint=checkpoint)
