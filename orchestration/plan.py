"""The plan of a sweep: the arguments that decide its results."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from dfml.data.datasets import REPOSITORY
from dfml.data.format.manifest import read_manifest
from dfml.data.streaming.cache import Cache, default_folder
from dfml.data.streaming.evaluation_set import splits_for_test
from dfml.data.streaming.order import epoch_batches
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import holdout_rows
from dfml.errors import InvalidInput
from dfml.protocol import PROTOCOLS, ProtocolName
from dfml.recipe import Recipe, recipe_from
from dfml.strict_model import StrictModel
from orchestration.search.budget import Budget
from orchestration.search.objectives import SCORE_ALONE, ObjectiveName
from orchestration.search.space import SearchSpace

PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "numpy", "pyarrow")


class Plan(StrictModel):
    """A sweep's arguments; two sweeps with the same plan compute the same.

    Attributes:
        name: name of the sweep.
        dataset: name of the data set.
        data: folder or URI of the packed data set.
        cache_size: the cache's largest size in bytes on each node; it decides the order of images.
        trials: number of trials.
        workers_per_trial: DDP workers; None until the cluster is known.
        seed: seed of sampled configurations, split and training.
        protocol: the protocol (see `dfml.protocol`).
        reproductions: seeds with which the winner is trained on all training classes.
        objectives: the task's score, and FLOPs of routed inference.
        budget: limit of the search; None: no limit.
        space: the search space, with the values that the command line fixes.
    """

    name: str
    dataset: str
    data: str
    cache_size: int | None = None
    trials: int
    workers_per_trial: int | None = None
    seed: int
    protocol: ProtocolName = "holdout"
    reproductions: int = 1
    objectives: tuple[ObjectiveName, ...] = SCORE_ALONE
    budget: Budget | None = None
    space: SearchSpace

    def defaults(self) -> Recipe:
        """Return the recipe of a trial before anything is sampled."""
        return self.space.defaults()

    def longest_warm_up(self) -> int:
        """Return the most warm-up epochs that a trial may have."""
        return int(max([self.defaults().warm_epochs, *self.space.values_of("warm_epochs")]))

    def smallest_batch(self) -> int:
        """Return the smallest batch size that a trial may have."""
        return int(min(self.space.values_of("batch_size") or [self.defaults().batch_size]))

    def weights_files(self) -> list[str]:
        """Return the files of pretrained weights that trials read; none for a package or a hub."""
        weights = self.space.values_of("weights") or [self.defaults().weights]
        return [str(each) for each in weights if each not in ("pretrained", "random")]

    def check(self, cache_folder: Path) -> None:
        """Check everything that can be checked before a cluster is started.

        Args:
            cache_folder: folder for the index of a data set on S3.

        Raises:
            InvalidInput: the data set lacks a training split, or a test split or queries and a
                gallery, or can't fill a batch; or the backbone doesn't go with a number of
                sub-blocks or a weights file.
        """
        manifest = read_manifest(self.data)
        manifest.split("train")
        splits_for_test(manifest, self.defaults().task)
        if self.workers_per_trial is not None:
            self.check_workers(self.workers_per_trial)
        self._check_batches(ShardedImages(self.data, "train", Cache(cache_folder, self.cache_size)).labels)
        self._check_routers()

    def check_workers(self, workers: int) -> None:
        """Check that each of a trial's workers gets an image of every batch.

        Raises:
            InvalidInput: a batch that may be sampled is too small.
        """
        smallest = self.smallest_batch()
        if smallest < workers:
            raise InvalidInput(
                f"batch_size {smallest} is smaller than --workers-per-trial {workers}, which would leave a worker "
                "without an image; raise batch_size or lower --workers-per-trial"
            )

    def _check_batches(self, labels: np.ndarray) -> None:
        """Check that every batch shape can be filled from the classes that trials train on."""
        defaults = self.defaults()
        if not PROTOCOLS[self.protocol].scores_on_test:
            training, _ = holdout_rows(labels, self.seed, defaults.task)
            labels = labels[training]
        targets = np.unique(labels, return_inverse=True)[1]
        for batch_size in self.space.values_of("batch_size") or [defaults.batch_size]:
            for images_per_class in self.space.values_of("images_per_class") or [defaults.images_per_class]:
                shape = {"batch_size": batch_size, "images_per_class": images_per_class}
                recipe = recipe_from({**defaults.model_dump(), **shape})
                epoch_batches(targets, recipe.batch_size, recipe.images_per_class, self.seed, epoch=1)

    def _check_routers(self) -> None:
        # These import torch: only once the cheap checks have passed.
        from dfml.factorized import allowed_sub_block_counts
        from dfml.pretrained import create_backbone, sub_blocks_of

        defaults = self.defaults()
        backbones = self.space.values_of("backbone") or [defaults.backbone]
        for file in self.weights_files():
            for num_sub_blocks in self.space.values_of("num_sub_blocks") or [defaults.num_sub_blocks]:
                sub_blocks_of(file, int(num_sub_blocks))
        for backbone in backbones:
            for weights in self.weights_files() or ["random"]:
                model = create_backbone(str(backbone), weights, defaults.image_size)
            for blocks in self.space.values_of("blocks") or [defaults.blocks]:
                numbers = defaults.model_copy(update={"blocks": blocks}).block_numbers()
                self._check_divides(str(backbone), allowed_sub_block_counts(model, numbers))

    def _check_divides(self, backbone: str, allowed: list[int]) -> None:
        for num_sub_blocks in self.space.values_of("num_sub_blocks") or [self.defaults().num_sub_blocks]:
            if num_sub_blocks not in allowed:
                raise InvalidInput(
                    f"num_sub_blocks {num_sub_blocks} doesn't divide the blocks of {backbone}; allowed are "
                    f"{', '.join(map(str, allowed))}; change it in the search space or on the command line"
                )


class ExecutionOptions(StrictModel):
    """Options that don't change what a sweep computes; they may differ when it is resumed.

    Attributes:
        cache_dir: folder on each node for shards from S3; None: the node's default.
        checkpoint_steps: steps between checkpoints within an epoch.
        concurrent_trials: trials that run at the same time; None: as many as fit on the GPUs, or 1.
        deterministic: whether GPUs compute the same bits from the same seed, with slower
            algorithms.
        gpus_per_worker: the part of a GPU for each worker; None: a whole one if there are GPUs.
        min_workers: fewest workers a trial may continue with after losing a node; None: all.
        wandb: whether Weights & Biases is used, and whether online or into files.
        verbose: whether the driver's log is printed too.
    """

    cache_dir: str | None = None
    checkpoint_steps: int = 1000
    concurrent_trials: int | None = None
    deterministic: bool = False
    gpus_per_worker: float | None = None
    min_workers: int | None = None
    wandb: Literal["online", "offline", "off"] = "off"
    verbose: bool = False

    def check_workers(self, workers: int | None) -> None:
        """Check that a trial has only one worker if its workers get parts of a GPU.

        Ray may place two workers of a trial on one GPU, which NCCL refuses; and they would only be
        slower than one worker with the whole GPU.

        Raises:
            InvalidInput: a trial has several workers.
        """
        share = self.gpus_per_worker
        if share is not None and share < 1 and workers is not None and workers > 1:
            raise InvalidInput(
                f"--gpus-per-worker {share:g} can't be used with {workers} workers per trial, because NCCL refuses two "
                "workers of a trial on one GPU; leave it out, or begin a sweep with --workers-per-trial 1, whose "
                "trials can share a GPU"
            )

    def cache_folder(self) -> Path:
        """Return the cache's folder on this node."""
        return Path(self.cache_dir) if self.cache_dir else default_folder()


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in PACKAGES}


def git_revision() -> str | None:
    """Return the commit of this code, with "-dirty" if changed; None outside a git checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
