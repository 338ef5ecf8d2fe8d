"""What runs in each Ray Train worker: `dfml`'s train loop, reporting to Ray after every epoch.

torch and dfml are imported inside, so that the driver and the controller processes of a trial, which import this file for
the functions' names, don't pay for them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train

from orchestration.unfinished import UnfinishedEpoch

if TYPE_CHECKING:
    from dfml.data.dataset import ShardedImages
    from dfml.data.split import ClassSubset
    from dfml.train import Training


def train_trial(config: dict[str, Any]) -> None:
    """Train on the training split without what is held out, score every epoch on that (protocol `holdout`).

    Args:
        config: `recipe`; `trial`, its folder or URI; `data`, the packed data set's place; `cache_dir` and `cache_size`, for a place on S3; `seed`, which decides
            the split; `epochs`; `checkpoint_steps` between checkpoints within an epoch; `cpus`.
    """
    from dfml.data.split import training_and_validation
    from dfml.recipe import recipe_from

    images = _images(config, "train")
    task = recipe_from(config["recipe"]).task
    training = _training(config, *training_and_validation(images, config["seed"], task))
    _train(training, config)


def train_winner(config: dict[str, Any]) -> None:
    """Train the winner's recipe on all training classes, then score it once on the test classes.

    Args:
        config: as for `train_trial`, with `epochs` the number after which the trial was at its best; `sweep`, the folder
            where the model and its figures are written; `facts`, what the model's configuration is to say of them.
    """
    from dfml.data.split import subset_of_classes
    from dfml.distributed import rank
    from orchestration.final_score import score_on_test, store

    training = _training(config, subset_of_classes(_images(config, "train")), None)
    _train(training, config)
    test = subset_of_classes(_images(config, "test"))
    outcome = score_on_test(training, test, config["sweep"])
    if rank() == 0:
        store(training.model, outcome, config)


def _images(config: dict[str, Any], split: str) -> ShardedImages:
    from dfml.data.cache import Cache, default_folder
    from dfml.data.dataset import ShardedImages

    folder = Path(config["cache_dir"]) if config["cache_dir"] else default_folder()  # of this node
    return ShardedImages(config["data"], split, Cache(folder, config["cache_size"]))


def _training(config: dict[str, Any], train: ClassSubset, validation: ClassSubset | None) -> Training:
    """This rank's training, resumed from the run's last checkpoint where there is one."""
    import torch
    from ray.train.torch import get_device

    from dfml.recipe import recipe_from
    from dfml.train import Training

    device = get_device()
    # With a GPU the CPU cores decode and augment; without, they compute, and decoding is little beside that.
    loader_workers = config["cpus"] if device.type == "cuda" else 0
    torch.set_num_threads(config["cpus"])
    training = Training(recipe_from(config["recipe"]), train, validation, device, loader_workers)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as directory:
            training.load(Path(directory))
    UnfinishedEpoch(config["trial"]).resume(training)
    return training


def _train(training: Training, config: dict[str, Any]) -> None:
    """Run the epochs that are still to run, and report each."""
    unfinished = UnfinishedEpoch(config["trial"])
    first = ray.train.get_context().get_world_rank() == 0
    if training.figures:
        _report(training, training.figures)  # what a resumed run's last epoch was, which Tune may have missed

    def keep() -> None:
        if first:
            unfinished.keep(training)

    for figures in training.epochs(config["epochs"], on_checkpoint=keep, checkpoint_steps=config["checkpoint_steps"]):
        _report(training, figures)
        if first:
            unfinished.forget()


def _report(training: Training, figures: dict[str, Any]) -> None:
    """Hand an epoch's figures to Ray, with a checkpoint from rank 0. All ranks must call it."""
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = None
        # Weights from the middle of an epoch aren't those that the figures are of.
        if ray.train.get_context().get_world_rank() == 0 and training.unfinished is None:
            training.save(Path(directory))
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        # Tune adds keys of its own on the way; `figures` says which are ours.
        ray.train.report({**figures, "figures": list(figures)}, checkpoint=checkpoint)
