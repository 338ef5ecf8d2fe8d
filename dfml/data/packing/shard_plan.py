"""The plan of packing: which images go into which shard.

It depends only on the images' names and sizes, so a run that was killed has the same plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfml.data.format.manifest import FORMAT_VERSION
from dfml.data.packing.source import Source

# Large enough to be worth an S3 request's latency, small enough to start training early.
SHARD_BYTES = 32 * 2**20
# Images of a class that stay together.
RUN = 8


@dataclass(frozen=True)
class Job:
    """A shard to make."""

    file: str
    split: str
    sources: tuple[Source, ...]
    labels: tuple[int, ...]
    digest: str  # of the other fields

    @property
    def bytes(self) -> int:
        return sum(source.size for source in self.sources)


def plan_shards(sources: list[Source], shard_bytes: int) -> tuple[list[Job], tuple[str, ...]]:
    """Return the shards to make, split by split, and the classes' names by label."""
    labels: dict[str, int] = {}
    by_split: dict[str, list[Source]] = {}
    for source in sources:
        labels.setdefault(source.class_name, len(labels))
        by_split.setdefault(source.split, []).append(source)
    jobs = []
    for split, members in by_split.items():
        if sum(source.size for source in members) > shard_bytes:
            members = _mixed(members)
        for number, part in enumerate(_parts(members, shard_bytes)):
            file, numbers = f"{split}-{number:05d}.parquet", tuple(labels[source.class_name] for source in part)
            described = ((source.path, source.class_name, source.size) for source in part)
            jobs.append(Job(file, split, tuple(part), numbers, digest_of(FORMAT_VERSION, file, numbers, *described)))
    return jobs, tuple(labels)


def _mixed(sources: list[Source]) -> list[Source]:
    """Divide classes into runs of up to `RUN` images, and shuffle the runs in a reproducible way.

    Any shard then holds many classes and several images of each, so training can start on the first
    shard, with plain shuffling or P×K batches.
    """
    runs: dict[tuple[str, int], list[Source]] = {}
    seen: dict[str, int] = {}
    for source in sources:
        number = seen.get(source.class_name, 0)
        seen[source.class_name] = number + 1
        runs.setdefault((source.class_name, number // RUN), []).append(source)
    every = list(runs.values())
    return [source for uri in np.random.default_rng(len(sources)).permutation(len(every)) for source in every[uri]]


def _parts(sources: Iterable[Source], shard_bytes: int) -> Iterator[list[Source]]:
    part: list[Source] = []
    size = 0
    for source in sources:
        if part and size + source.size > shard_bytes:
            yield part
            part, size = [], 0
        part.append(source)
        size += source.size
    if part:
        yield part


def digest_of(*parts: Any) -> str:
    """Return a digest of values that are the same in each run."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
