"""Ranks that only read: real processes that consume batches and record what they contain."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfml.data.streaming.cache import Cache
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.order import epoch_batches
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset
from dfml.recipe import recipe_from

BATCH_SIZE = 8
RECIPE = recipe_from({"image_size": 32, "batch_size": BATCH_SIZE, "images_per_class": None})

# A fresh process imports torch once for all ranks (5 s of a core) and forks them.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dfml.data.streaming.loader", "dfml.recipe", "boto3"])


@dataclass(frozen=True)
class Job:
    """The work of one rank.

    Attributes:
        uri: the URI of the data set.
        cache: the folder of the cache.
        environment: the environment variables that name the server.
        cache_size: the size limit in bytes. None: no limit.
        seed: the seed of its trial.
        rank: the number of the rank.
        world_size: the number of ranks.
        epochs: the number of epochs to read.
        workers: the number of DataLoader workers.
    """

    uri: str
    cache: Path
    environment: Mapping[str, str]
    cache_size: int | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epochs: int = 1
    workers: int = 2

    def order(self, images: ShardedImages, epoch: int) -> np.ndarray:
        """Return the global batches of an epoch, as rows of the data set."""
        return epoch_batches(images.labels, BATCH_SIZE, None, self.seed, epoch, images.shard_numbers, images.window)

    def read(self, output: Path) -> None:
        """Consume all batches, and append one line per epoch to `output`."""
        torch.set_num_threads(1)
        os.environ.update(self.environment)
        images = ShardedImages(self.uri, "train", Cache(self.cache, self.cache_size))
        recipe = RECIPE.model_copy(update={"seed": self.seed})
        subset = rows_as_targets(images)
        with Loader(recipe, [subset], self.workers) as loader:
            for epoch in range(1, self.epochs + 1):
                batches = loader.training(subset, self.order(images, epoch), epoch, self.rank, self.world_size)
                with output.open("a") as stream:
                    print(record_of(batches), file=stream)

    def start(self, output: Path) -> ForkServerProcess:
        process = CONTEXT.Process(target=self.read, args=(output,))
        process.start()
        return process


def rows_as_targets(images: ShardedImages) -> ClassSubset:
    """Make each row a separate class, so that a batch's targets are its rows."""
    rows = np.arange(len(images))
    return ClassSubset(images, rows, rows, rows)


def record_of(batches: Iterable[tuple[Tensor, Tensor]]) -> str:
    """Return the rows of an epoch and the hash of all its pixels as a line of JSON."""
    rows, pixels = [], hashlib.sha256()
    for images, targets in batches:
        rows += targets.tolist()
        pixels.update(images.numpy())
    return json.dumps({"rows": rows, "pixels": pixels.hexdigest()})


def records(output: Path) -> list[str]:
    """Return the record of each epoch."""
    return output.read_text().splitlines()


def rows_seen(output: Path) -> list[list[int]]:
    """Return the rows of each epoch."""
    return [json.loads(line)["rows"] for line in records(output)]
