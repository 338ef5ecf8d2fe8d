"""Images, transform, command line and clock that the contenders of benchmarks/stream.py share.

A contender is a script with two commands, made by `main`:

    prepare --images DIR --out DIR
    measure --source S3-URI-or-DIR --cache DIR [--epochs 2] [--batch 128] [--workers 2]

`prepare` writes the images in the contender's format into a new folder. `measure` prints one JSON
line: {"first_batch_s": s, "epochs": [{"images": n, "seconds": s}, …]}. AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION name the S3 server. Imports aren't
timed; constructing data set and loader counts toward the first epoch.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

# Chunk size of every format that has such a setting.
CHUNK_BYTES = 32 * 2**20
IMAGE_SIZE = 224


@dataclass(frozen=True)
class Options:
    """The arguments of `measure`."""

    source: str
    cache: Path
    batch: int
    workers: int


# Maps an epoch (0, 1, …) to its batches; a batch begins with its images.
Batches = Callable[[int], Iterable[Sequence[Tensor]]]


def training_transform() -> v2.Compose:
    """Return dfml.data.streaming.transforms.training_transform with ImageNet's normalization."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(IMAGE_SIZE, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


def decode(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB")


def listed(images: Path) -> list[tuple[Path, int]]:
    """Return files and labels in a fixed random order: libraries advise to pack images shuffled."""
    classes = sorted(folder for folder in images.iterdir() if folder.is_dir())
    files = [(file, label) for label, folder in enumerate(classes) for file in sorted(folder.iterdir())]
    random.Random(0).shuffle(files)
    return files


def timed(batches_of: Callable[[Options], Batches], options: Options, epochs: int) -> dict[str, object]:
    """Consume the epochs and return the times that `measure` prints."""
    first_batch: float | None = None
    found = []
    began = time.perf_counter()
    batches = batches_of(options)
    for epoch in range(epochs):
        images = 0
        for batch, *_ in batches(epoch):
            if batch.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE) or batch.dtype != torch.float32:
                raise ValueError(f"not a batch of images: {tuple(batch.shape)}, {batch.dtype}")
            # Wait until the batch has really arrived.
            batch[:, 0, 0, 0].sum().item()
            images += len(batch)
            if first_batch is None:
                first_batch = time.perf_counter() - began
        ended = time.perf_counter()
        found.append({"images": images, "seconds": ended - began})
        began = ended
    return {"first_batch_s": first_batch, "epochs": found}


def main(
    batches_of: Callable[[Options], Batches],
    prepare: Callable[[Path, Path], None] | None = None,
    before: Callable[[Options], None] | None = None,
) -> None:
    """Run the command line of a contender.

    Args:
        batches_of: the function that constructs data set and loader; its time counts.
        prepare: the function (images, out) that writes the contender's format. None: the contender
            reads the images as they are.
        before: the function that runs before the clock starts, for example to start a cluster.
    """
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    if prepare:
        command = commands.add_parser("prepare")
        command.add_argument("--images", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("measure")
    command.add_argument("--source", required=True)
    command.add_argument("--cache", type=Path, required=True)
    command.add_argument("--epochs", type=int, default=2)
    command.add_argument("--batch", type=int, default=128)
    command.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        assert prepare
        prepare(arguments.images, arguments.out)
        return
    options = Options(arguments.source, arguments.cache, arguments.batch, arguments.workers)
    if before:
        before(options)
    print(json.dumps(timed(batches_of, options, arguments.epochs)), flush=True)
