"""What a sweep is: the arguments that decide its results, stored in `sweep.json` before anything runs."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from dfml import storage
from dfml.data.cache import Cache, default_folder
from dfml.data.dataset import ShardedImages
from dfml.data.datasets import REPOSITORY
from dfml.data.manifest import read_manifest
from dfml.data.order import epoch_batches
from dfml.data.split import holdout_rows
from dfml.errors import InvalidInput
from dfml.recipe import Recipe, recipe_from
from orchestration import layout
from orchestration.search_space import SearchSpace

PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "numpy", "pyarrow")


class Plan(BaseModel):
    """A sweep's arguments; two sweeps with the same plan compute the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dataset: str
    data: str
    cache_size: int | None = None  # bytes on each node; a part of the plan, since it decides in which order images come
    trials: int
    workers_per_trial: int
    seed: int
    protocol: Literal["holdout"] = "holdout"
    space: SearchSpace

    def defaults(self) -> Recipe:
        """The recipe of a trial before anything is sampled."""
        return recipe_from(self.space.recipe)

    def check(self, cache_folder: Path) -> None:
        """Everything that can be known to fail before a cluster is started.

        Args:
            cache_folder: keeps the index of a data set on S3.

        Raises:
            InvalidInput: the data set has no training or test split or can't fill a batch, or a router count doesn't fit the
            backbone.
        """
        manifest = read_manifest(self.data)
        for split in ("train", "test"):
            manifest.shards_of(split)
        self._check_batches(ShardedImages(self.data, "train", Cache(cache_folder, self.cache_size)).labels)
        self._check_routers()

    def _check_batches(self, labels: np.ndarray) -> None:
        """See that every batch shape can be filled from the classes that trials train on."""
        defaults = self.defaults()
        training, _ = holdout_rows(labels, self.seed, defaults.task)
        targets = np.unique(labels[training], return_inverse=True)[1]
        for batch_size in self.space.values_of("batch_size") or [defaults.batch_size]:
            for images_per_class in self.space.values_of("images_per_class") or [defaults.images_per_class]:
                recipe = recipe_from(
                    {**self.space.recipe, "batch_size": batch_size, "images_per_class": images_per_class}
                )
                if recipe.batch_size < self.workers_per_trial:
                    raise InvalidInput(
                        f"batch_size {recipe.batch_size} is smaller than --workers-per-trial {self.workers_per_trial}, which would leave a "
                        "worker without an image: make one larger or the other smaller"
                    )
                epoch_batches(targets, recipe.batch_size, recipe.images_per_class, self.seed, epoch=1)

    def _check_routers(self) -> None:
        from dfml.factorized import allowed_routers  # imports torch: only once the cheap checks have passed
        from dfml.pretrained import create_backbone

        defaults = self.defaults()
        backbones = self.space.values_of("backbone") or [defaults.backbone]
        for backbone in backbones:
            model = create_backbone(str(backbone), "random", defaults.image_size)
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

    def is_stored(self, sweep: str) -> bool:
        """Whether this very sweep was begun in the folder, so that it is to be resumed.

        Raises:
            InvalidInput: the folder holds a sweep of another plan; the first difference is named.
        """
        place = storage.join(sweep, layout.SWEEP)
        if not storage.exists(place):
            return False
        stored = json.loads(storage.read(place))["plan"]
        if differences := _differences(stored, json.loads(self.model_dump_json())):
            name, (before, now) = next(iter(differences.items()))
            raise InvalidInput(
                f"the sweep {sweep} was begun with {name} = {before!r}, now it is {now!r}: give it again as it was to resume, "
                "or choose another --name"
            )
        return True

    def store(self, sweep: str) -> None:
        """Write `sweep.json`, with which a sweep begins."""
        content = {"plan": json.loads(self.model_dump_json()), "versions": versions(), "git_revision": git_revision()}
        storage.write(storage.join(sweep, layout.SWEEP), (json.dumps(content, indent=1) + "\n").encode())


class Conduct(BaseModel):
    """How a sweep is run where that doesn't change what it computes; a resumed sweep may be run otherwise.

    Attributes:
        cache_dir: on each node, for a data set on S3; None for that node's default.
        checkpoint_steps: between two checkpoints within an epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cache_dir: str | None = None
    checkpoint_steps: int = 1000

    def cache_folder(self) -> Path:
        """The cache's folder on this node."""
        return Path(self.cache_dir) if self.cache_dir else default_folder()


def _differences(before: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """The leaves in which two JSON values differ, by their dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*before, *now}):
            found |= _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if before == now else {name: (before, now)}


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
