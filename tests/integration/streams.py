"""Helpers of the tests of faults, which compare an epoch from S3 with the same from a folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from stream_rank import RECIPE, Job, rows_as_targets
from torch import Tensor

from dfml.data.streaming.loader import Loader
from dfml.data.streaming.sharded_images import ShardedImages
from tests.s3.faults import Fault
from tests.s3.locations import Streamed

Batch = tuple[Tensor, Tensor]


def epoch_of(
    images: ShardedImages, epoch: int = 1, workers: int = 0, order_of: ShardedImages | None = None
) -> list[Batch]:
    """Return all batches of an epoch, with rows as targets.

    Args:
        images: the images to read.
        epoch: the number of the epoch.
        workers: the number of DataLoader workers.
        order_of: the images whose order is used. None: `images`.
    """
    order = Job("", Path(), {}).order(order_of or images, epoch)
    subset = rows_as_targets(images)
    with Loader(RECIPE, [subset], workers) as loader:
        return list(loader.training(subset, order, epoch))


def job_of(streamed: Streamed, cache_size: int | None = None, **others: int) -> Job:
    """Return the job of a rank that reads through the proxy."""
    environment = replace(streamed.server, endpoint=streamed.proxy.endpoint).environment()
    return Job(streamed.uri, streamed.cache_folder, environment, cache_size, **others)


def assert_equal(batches: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(batches) == len(expected) > 0
    for (images, rows), (their_images, their_rows) in zip(batches, expected, strict=True):
        assert torch.equal(rows, their_rows)
        assert torch.equal(images, their_images)


def assert_clean(streamed: Streamed) -> None:
    """Check that the cache has no partial files, and that every file matches its hash."""
    # Transfers may still be running after an epoch was aborted.
    end = time.monotonic() + 10
    while list(streamed.cache_folder.glob("*.partial")):
        assert time.monotonic() < end
        time.sleep(0.05)
    for file in streamed.cache_folder.iterdir():
        if file.suffix != ".lock":
            assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stem


def once(streamed: Streamed, file: str, fault: Fault, times: int = 1) -> None:
    """Make the first `times` replies with this file go wrong."""
    always(streamed, file, fault, lambda number: number < times)


def always(streamed: Streamed, file: str, fault: Fault, which: Callable[[int], bool] = lambda number: True) -> None:
    """Make the replies with this file go wrong whose number satisfies `which`."""
    spoilt = streamed.path(file)
    streamed.proxy.fault = lambda method, path, number: (
        fault if method == "GET" and path == spoilt and which(number) else None
    )
