"""What runs in each Ray Train worker: `dfml`'s train loop, reporting to Ray after every epoch.

torch and the parts of dfml that need it are imported inside, so that a trial's own process, which imports this file for the functions'
names, doesn't pay for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from pyarrow.fs import copy_files

from dfml import s3
from orchestration.reports import FIGURES, RESUMED, S3_BYTES
from orchestration.trials.evaluations import count_evaluation
from orchestration.trials.failure import told_apart
from orchestration.trials.live import Live
from orchestration.trials.rendezvous import join
from orchestration.trials.scratch import clear_stale, scratch
from orchestration.trials.unfinished import UnfinishedEpoch

if TYPE_CHECKING:
    from dfml.data.cache import Cache
    from dfml.data.dataset import ShardedImages
    from dfml.data.evaluation_set import EvaluationSet
    from dfml.data.split import ClassSubset
    from dfml.task import TaskName
    from dfml.train import Training


@told_apart()
def train_trial(config: dict[str, Any]) -> None:
    """Train, and score every epoch: on a part of the training split that is held out for it, or (protocol `paper`) on the test classes.

    Args:
        config: `recipe`; `trial`, its folder or URI; `data`, the packed data set's place; `cache_dir` and `cache_size`, for a place on S3; `protocol`;
            `seed`, which decides the split; `epochs`; `checkpoint_steps` between checkpoints within an epoch; `cpus`; `labels` of metrics.
    """
    from dfml.data.split import training_and_validation

    if config["protocol"] == "paper":
        training = _training(config, _all_training_classes(config), _test(config))
    else:
        images = _images(config, "train")
        training = _training(config, *training_and_validation(images, config["seed"], _task(config)))
    _train(training, config)


@told_apart()
def train_winner(config: dict[str, Any]) -> None:
    """Train the winner's recipe on all training classes, then score it in full on the test classes.

    By protocol `holdout` for as many epochs as the trial took to be at its best; by `paper` the epoch is picked on the test classes,
    and where the trial was trained with this very seed its own best epoch is what is scored.

    Args:
        config: as for `train_trial`; `trained`, the folder of the trial that has been trained as this run would be, or None;
            `first`, whether the sweep's model is to come of this run; `winner`, the trial's number; `sweep`; `facts`, what the model's
            configuration is to say of it.
    """
    from dfml.distributed import rank
    from orchestration.trials.final_score import score_on_test, store

    test = _test(config)
    paper = config["protocol"] == "paper"
    training = _training(config, _all_training_classes(config), test if paper else None)
    if config["trained"] is not None:
        _load_best(training, config["trained"], config["epochs"])
        _report(training, training.figures)
    else:
        _train(training, config)
        if paper:
            _load_best(training, config["trial"], training.epoch)
    outcome = score_on_test(training, test, config)
    if rank() == 0:
        store(training, outcome, config)
    ray.train.report({S3_BYTES: s3.received()})  # the test images came after the last epoch's report


def _load_best(training: Training, run: str, last: int) -> None:
    """Load the best epoch that a run has had up to `last`. For all ranks to call."""
    from orchestration.trials.kept import fetch_best

    with scratch() as directory:
        fetch_best(run, last, directory)
        training.load(directory)


def _task(config: dict[str, Any]) -> TaskName:
    from dfml.recipe import recipe_from

    return recipe_from(config["recipe"]).task


def _images(config: dict[str, Any], split: str) -> ShardedImages:
    from dfml.data.dataset import ShardedImages

    return ShardedImages(config["data"], split, _cache(config))


def _all_training_classes(config: dict[str, Any]) -> ClassSubset:
    from dfml.data.split import subset_of_classes

    return subset_of_classes(_images(config, "train"))


def _test(config: dict[str, Any]) -> EvaluationSet:
    from dfml.data.evaluation_set import images_for_test

    return images_for_test(config["data"], _task(config), _cache(config))


def _cache(config: dict[str, Any]) -> Cache:
    from dfml.data.cache import Cache, default_folder

    folder = Path(config["cache_dir"]) if config["cache_dir"] else default_folder()  # of this node
    return Cache(folder, config["cache_size"])


def _training(config: dict[str, Any], train: ClassSubset, validation: ClassSubset | EvaluationSet | None) -> Training:
    """This rank's training, resumed from the run's last checkpoint where there is one."""
    import torch

    from dfml.recipe import recipe_from
    from dfml.train import Training

    clear_stale()
    device = join()
    # With a GPU the CPU cores decode and augment; without, they compute, and decoding is little beside that.
    loader_workers = config["cpus"] if device.type == "cuda" else 0
    torch.set_num_threads(config["cpus"])
    training = Training(recipe_from(config["recipe"]), train, validation, device, loader_workers)
    if checkpoint := ray.train.get_checkpoint():
        with (
            scratch() as directory
        ):  # not `as_directory`, whose one folder the ranks of a node write and read at the same time
            copy_files(checkpoint.path, str(directory), source_filesystem=checkpoint.filesystem)
            training.load(directory)
    UnfinishedEpoch(config["trial"]).resume(training)
    return training


def _train(training: Training, config: dict[str, Any]) -> None:
    """Run the epochs that are still to run, and report each."""
    unfinished = UnfinishedEpoch(config["trial"])
    first = ray.train.get_context().get_world_rank() == 0
    if training.figures:
        _report(training, training.figures, resumed=True)  # a resumed run's last epoch, which Tune may have missed

    def keep() -> None:
        if first:
            unfinished.keep(training)

    def count() -> None:
        if first and config["protocol"] == "paper":
            count_evaluation(config["trial"])

    for figures in training.epochs(
        config["epochs"],
        on_step=Live(config["labels"], training.recipe.batch_size) if first else None,
        on_checkpoint=keep,
        checkpoint_steps=config["checkpoint_steps"],
        on_validation=count,
    ):
        _report(training, figures)
        if first:
            unfinished.forget()


def _report(training: Training, figures: dict[str, Any], resumed: bool = False) -> None:
    """Hand an epoch's figures to Ray, with a checkpoint from rank 0. All ranks must call it."""
    with scratch() as directory:
        checkpoint = None
        # Weights from the middle of an epoch aren't those that the figures are of.
        if ray.train.get_context().get_world_rank() == 0 and training.unfinished is None:
            training.save(directory)
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        more = {FIGURES: list(figures), RESUMED: resumed, S3_BYTES: s3.received()}
        ray.train.report({**figures, **more}, checkpoint=checkpoint)
