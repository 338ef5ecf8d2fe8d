"""What a sweep is: the arguments that decide its results."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from dfml.data.cache import Cache, default_folder
from dfml.data.dataset import ShardedImages
from dfml.data.datasets import REPOSITORY
from dfml.data.evaluation_set import splits_for_test
from dfml.data.manifest import read_manifest
from dfml.data.order import epoch_batches
from dfml.data.split import holdout_rows
from dfml.errors import InvalidInput
from dfml.recipe import Recipe, recipe_from
from orchestration.search.budget import Budget
from orchestration.search.space import SearchSpace

PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "numpy", "pyarrow")


class Plan(BaseModel):
    """A sweep's arguments; two sweeps with the same plan compute the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dataset: str
    data: str
    cache_size: int | None = None  # bytes on each node; a part of the plan, since it decides in which order images come
    trials: int
    workers_per_trial: int | None = None  # until a cluster is known, None where what fits is to be taken
    seed: int
    protocol: Literal["holdout", "paper"] = "holdout"
    reproductions: int = 1  # seeds with which the winner is trained on all training classes
    objectives: tuple[Literal["score", "flops"], ...] = ("score",)  # the task's score, and FLOPs of routed inference
    budget: Budget | None = None
    space: SearchSpace

    def defaults(self) -> Recipe:
        """The recipe of a trial before anything is sampled."""
        return self.space.defaults()

    def longest_warm_up(self) -> int:
        """Epochs of warm-up of the trial that has most."""
        return int(max([self.defaults().warm_epochs, *self.space.values_of("warm_epochs")]))

    def weights_files(self) -> list[str]:
        """Files from which trials take their pretrained weights; none where these come from a package or a hub."""
        weights = self.space.values_of("weights") or [self.defaults().weights]
        return [str(each) for each in weights if each not in ("pretrained", "random")]

    def check(self, cache_folder: Path) -> None:
        """Everything that can be known to fail before a cluster is started.

        Args:
            cache_folder: keeps the index of a data set on S3.

        Raises:
            InvalidInput: the data set has no training split, or neither a test split nor queries and a gallery, or can't fill a
            batch, or a router count doesn't fit the backbone, or a weights file neither.
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
        smallest = min(self.space.values_of("batch_size") or [self.defaults().batch_size])
        if smallest < workers:
            raise InvalidInput(
                f"batch_size {smallest} is smaller than --workers-per-trial {workers}, which would leave a worker without an image: make "
                "one larger or the other smaller"
            )

    def _check_batches(self, labels: np.ndarray) -> None:
        """See that every batch shape can be filled from the classes that trials train on."""
        defaults = self.defaults()
        if self.protocol == "holdout":
            training, _ = holdout_rows(labels, self.seed, defaults.task)
            labels = labels[training]
        targets = np.unique(labels, return_inverse=True)[1]
        for batch_size in self.space.values_of("batch_size") or [defaults.batch_size]:
            for images_per_class in self.space.values_of("images_per_class") or [defaults.images_per_class]:
                shape = {"batch_size": batch_size, "images_per_class": images_per_class}
                recipe = recipe_from({**defaults.model_dump(), **shape})
                epoch_batches(targets, recipe.batch_size, recipe.images_per_class, self.seed, epoch=1)

    def _check_routers(self) -> None:
        from dfml.factorized import allowed_routers  # imports torch: only once the cheap checks have passed
        from dfml.pretrained import create_backbone, sub_blocks_of

        defaults = self.defaults()
        backbones = self.space.values_of("backbone") or [defaults.backbone]
        for file in self.weights_files():
            for routers in self.space.values_of("routers") or [defaults.routers]:
                sub_blocks_of(file, int(routers))
        for backbone in backbones:
            for weights in self.weights_files() or ["random"]:
                model = create_backbone(str(backbone), weights, defaults.image_size)
            for blocks in self.space.values_of("blocks") or [defaults.blocks]:
                numbers = defaults.model_copy(update={"blocks": blocks}).block_numbers()
                self._check_divides(str(backbone), allowed_routers(model, numbers))

    def _check_divides(self, backbone: str, allowed: list[int]) -> None:
        for routers in self.space.values_of("routers") or [self.defaults().routers]:
            if routers not in allowed:
                raise InvalidInput(
                    f"router count {routers} doesn't divide the blocks of {backbone}; those that do: "
                    f"{', '.join(map(str, allowed))}: change `routers` in the search space or on the command line"
                )


class Conduct(BaseModel):
    """How a sweep is run where that doesn't change what it computes; a resumed sweep may be run otherwise.

    Attributes:
        cache_dir: on each node, for a data set on S3; None for that node's default.
        checkpoint_steps: between two checkpoints within an epoch.
        concurrent_trials: that run at once; None for what the cluster has room for.
        min_workers: with how few a trial goes on when a node is lost; None for all.
        wandb: whether Weights & Biases is told, and at once or into files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cache_dir: str | None = None
    checkpoint_steps: int = 1000
    concurrent_trials: int | None = None
    min_workers: int | None = None
    wandb: Literal["online", "offline", "off"] = "off"

    def cache_folder(self) -> Path:
        """The cache's folder on this node."""
        return Path(self.cache_dir) if self.cache_dir else default_folder()


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in PACKAGES}


def git_revision() -> str | None:
    """The commit this code is at, with "-dirty" for uncommitted changes; None outside a git checkout."""
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
