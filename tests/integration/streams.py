"""What tests of faults share: an epoch read from S3, and the same read from a folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from stream_rank import PLAIN, RECIPE, Job, rows_as_targets
from torch import Tensor

from dfml.data.dataset import ShardedImages
from dfml.data.loader import training_batches
from tests.s3.faults import Fault
from tests.s3.places import Streamed

Batch = tuple[Tensor, Tensor]


def epoch_of(
    images: ShardedImages, epoch: int = 1, workers: int = 0, order_of: ShardedImages | None = None
) -> list[Batch]:
    """All batches of an epoch, whose targets are rows; in the order that another `ShardedImages` has, where one is given."""
    order = Job("", Path(), {}).order(order_of or images, epoch)
    return list(training_batches(rows_as_targets(images), order, RECIPE, PLAIN, epoch, 0, 1, workers))


def job_of(streamed: Streamed, cache_size: int | None = None, **others: int) -> Job:
    """A rank that reads through the proxy."""
    environment = replace(streamed.server, endpoint=streamed.proxy.endpoint).environment()
    return Job(streamed.place, streamed.cache_folder, environment, cache_size, **others)


def assert_equal(batches: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(batches) == len(expected) > 0
    for (images, rows), (their_images, their_rows) in zip(batches, expected, strict=True):
        assert torch.equal(rows, their_rows)
        assert torch.equal(images, their_images)


def assert_clean(streamed: Streamed) -> None:
    """Nothing half-written stays, and every shard is what the manifest says."""
    end = time.monotonic() + 10  # for transfers that were under way when an epoch was given up
    while list(streamed.cache_folder.glob("*.partial")):
        assert time.monotonic() < end
        time.sleep(0.05)
    for file in streamed.cache_folder.iterdir():
        if file.suffix != ".lock":
            assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stem


def once(streamed: Streamed, file: str, fault: Fault, times: int = 1) -> None:
    """The first replies with this file go wrong."""
    always(streamed, file, fault, lambda number: number < times)


def always(streamed: Streamed, file: str, fault: Fault, which: Callable[[int], bool] = lambda number: True) -> None:
    spoilt = streamed.path(file)
    streamed.proxy.fault = lambda method, path, number: (
        fault if method == "GET" and path == spoilt and which(number) else None
    )
