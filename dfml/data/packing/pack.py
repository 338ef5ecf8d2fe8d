"""Packing of the images that a reader found into shards, one index per split and the manifest.

The plan (which image goes to which shard) is made first and depends only on the images' names and
sizes, so shards can be made in any order and by many processes, and a killed run can be resumed:
finished shards are recorded in `packing/`, one small file per shard, until the manifest is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from dfml import s3, storage
from dfml.data.format import index
from dfml.data.format.images import UNDECODABLE, decode, undecodable_reason
from dfml.data.format.manifest import (
    FILE_NAME,
    FORMAT_VERSION,
    Dropped,
    File,
    Manifest,
    Shard,
    Split,
    is_packed,
    manifest_sha256,
    read_manifest,
    write_manifest,
)
from dfml.data.format.shards import ImageRow, shard_of
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

# Large enough to be worth an S3 request's latency, small enough to start training early.
SHARD_BYTES = 32 * 2**20
# Images of a class that stay together.
RUN = 8
JOURNAL = "packing"
# In `JOURNAL`: the names of all shards and indices that may exist at the URI.
FILES = "files.json"


class Source(Protocol):
    """An image to pack: `dfml.data.packing.source.ImageSource`, or an `ImageRow` in memory."""

    @property
    def class_name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self) -> bytes: ...


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


class Packed(BaseModel):
    """The result of a job.

    Attributes:
        digest: the job's digest.
        files: a digest of the sizes and times of the files that its images were read from.
        shard: the shard; None: no image can be decoded, or one can't and none may be left out.
        rows: the shard's part of the index, by column.
        dropped: the images that can't be decoded.
    """

    digest: str
    files: str
    shard: Shard | None
    rows: dict[str, list[Any]]
    dropped: list[Dropped]


# Does all jobs in any order, in this process or in others, and yields the result of each as it
# ends. If closed early, it leaves nothing running.
Runner = Callable[[Callable[[Job], Packed], Sequence[Job]], Generator[tuple[Job, Packed], None, None]]


@dataclass(frozen=True)
class _Packer:
    """Make a shard at a URI, unless it is there already."""

    uri: str
    skip_bad: bool

    def __call__(self, job: Job) -> Packed:
        journal = _journal(self.uri, job.file)
        files = _state_of_files(job)
        try:
            packed = Packed.model_validate_json(storage.read(journal))
            if (packed.digest, packed.files) == (job.digest, files) and (self.skip_bad or not packed.dropped):
                return packed
        except (FileNotFoundError, ValueError):
            # The shard wasn't made yet, or its record has an older format.
            pass
        packed = self._pack(job, files)
        if packed.shard is not None:
            storage.write(journal, packed.model_dump_json().encode())
        return packed

    def _pack(self, job: Job, files: str) -> Packed:
        rows, labels, dropped = [], [], []
        for source, label in zip(job.sources, job.labels, strict=True):
            with _readable(source):
                image = source.read()
            try:
                decode(image)
            except UNDECODABLE as error:
                dropped.append(Dropped(path=source.path, reason=undecodable_reason(error)))
            else:
                rows.append(ImageRow(image, source.class_name, source.path, source.split))
                labels.append(label)
        if not rows or (dropped and not self.skip_bad):
            return Packed(digest=job.digest, files=files, shard=None, rows={}, dropped=dropped)
        content, located = shard_of(rows, labels)
        storage.write(storage.join(self.uri, job.file), content)
        shard = Shard(split=job.split, rows=len(rows), **_file(job.file, content).model_dump())
        return Packed(digest=job.digest, files=files, shard=shard, rows=located.to_pydict(), dropped=dropped)


def in_this_process(
    pack_one: Callable[[Job], Packed], jobs: Sequence[Job]
) -> Generator[tuple[Job, Packed], None, None]:
    """Do the jobs one after the other in this process (a `Runner`)."""
    for job in jobs:
        yield job, pack_one(job)


def pack(
    sources: Iterable[Source],
    uri: str | Path,
    dataset: str,
    shard_bytes: int = SHARD_BYTES,
    skip_bad: bool = False,
    overwrite: bool = False,
    run: Runner = in_this_process,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Pack images into shards, indices and a manifest; resume if an earlier run was killed.

    Labels number the classes in the order in which they first occur. A split that fits into one
    shard keeps its order; the images of a larger one are mixed (see `_mixed`).

    Args:
        sources: the images, at least one.
        uri: the folder or `s3://` URI to write to; it must not hold another packed data set, unless
            `overwrite` is set.
        dataset: the data set's name.
        shard_bytes: the most bytes of images per shard; a larger image gets a shard of its own.
        skip_bad: whether to leave out images that can't be decoded, and record them in the
            manifest.
        overwrite: whether to replace another data set.
        run: the runner of the jobs.
        progress: called with the bytes of images done so far and the total.

    Returns:
        The manifest.

    Raises:
        InvalidInput: there are no images, one can't be read, some can't be decoded, or `uri` holds
            another data set.
    """
    uri = storage.absolute(str(uri))
    jobs, classes = _plan(list(sources), shard_bytes)
    if not jobs:
        raise InvalidInput(f"there are no images to pack into {uri}; give at least one")
    source = _digest(FORMAT_VERSION, dataset, classes, *(job.digest for job in jobs))
    if is_packed(uri) and not overwrite:
        manifest = _already(uri, source)
        # The run that wrote the manifest may have been killed before it tidied up.
        tidy(uri, manifest)
        return manifest
    _begin(uri, jobs)
    finished: dict[str, Packed] = {}
    done, total = 0, sum(job.bytes for job in jobs)
    with contextlib.closing(run(_Packer(uri, skip_bad), jobs)) as results:
        for job, packed in results:
            finished[job.file] = packed
            done += job.bytes
            progress(done, total)
    dropped = [image for job in jobs for image in finished[job.file].dropped]
    if dropped and not skip_bad:
        raise InvalidInput(_undecodable(dropped))
    manifest = _manifest(uri, dataset, classes, source, [finished[job.file] for job in jobs])
    write_manifest(uri, manifest)
    tidy(uri, manifest)
    return manifest


def _already(uri: str, source: str) -> Manifest:
    try:
        manifest = read_manifest(uri)
    except InvalidInput as error:
        raise InvalidInput(
            f"{uri} holds a packed data set that this code can't read; name another folder or URI, or pass --overwrite"
        ) from error
    if manifest.source != source:
        raise InvalidInput(
            f"{uri} holds another packed data set ({manifest.dataset!r}, manifest {manifest_sha256(uri)[:12]}); "
            "name another folder or URI, or pass --overwrite"
        )
    return manifest


def _begin(uri: str, jobs: list[Job]) -> None:
    """Record the files of this run, of killed ones and of a replaced set; delete the manifest."""
    files = _noted(uri) | {job.file for job in jobs} | {index.file_name(job.split) for job in jobs}
    if is_packed(uri):
        # The file names of a manifest in another format are unknown.
        with contextlib.suppress(InvalidInput):
            files |= _files(read_manifest(uri))
    storage.write(storage.join(uri, JOURNAL, FILES), json.dumps(sorted(files)).encode())
    storage.delete(storage.join(uri, FILE_NAME))


def tidy(uri: str, manifest: Manifest) -> None:
    """Remove the journals, and the files that `_begin` recorded but the manifest doesn't name."""
    files = _noted(uri)
    if not files:
        return
    for file in files - _files(manifest):
        storage.delete(storage.join(uri, file))
    for file in files:
        storage.delete(_journal(uri, file))
    # `storage.write` leaves partial files if its process is killed; on S3 it leaves nothing.
    if not uri.startswith(s3.PREFIX):
        for folder in (Path(uri), Path(uri, JOURNAL)):
            for partial in folder.glob("*.partial"):
                if partial.name.rsplit(".", 2)[0].removesuffix(".json") in files:
                    partial.unlink(missing_ok=True)
    storage.delete(storage.join(uri, JOURNAL, FILES))
    storage.delete_empty(storage.join(uri, JOURNAL))


def _noted(uri: str) -> set[str]:
    try:
        return set(json.loads(storage.read(storage.join(uri, JOURNAL, FILES))))
    except (FileNotFoundError, ValueError):
        return set()


def _files(manifest: Manifest) -> set[str]:
    return {shard.file for shard in manifest.shards} | {split.index.file for split in manifest.splits.values()}


def _journal(uri: str, file: str) -> str:
    return storage.join(uri, JOURNAL, f"{file}.json")


def _plan(sources: list[Source], shard_bytes: int) -> tuple[list[Job], tuple[str, ...]]:
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
            jobs.append(Job(file, split, tuple(part), numbers, _digest(FORMAT_VERSION, file, numbers, *described)))
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


def _manifest(uri: str, dataset: str, classes: tuple[str, ...], source: str, packed: list[Packed]) -> Manifest:
    """Write each split's index and return the manifest."""
    shards = [part.shard for part in packed if part.shard is not None]
    if not shards:
        raise InvalidInput(f"none of the images for {uri} can be decoded; give at least one that can")
    splits = {}
    for name in dict.fromkeys(shard.split for shard in shards):
        parts = [part.rows for part in packed if part.shard is not None and part.shard.split == name]
        table = pa.concat_tables([pa.table(rows, schema=index.SCHEMA) for rows in parts])
        content = index.to_bytes(table)
        storage.write(storage.join(uri, index.file_name(name)), content)
        labels = np.unique(table["label"].to_numpy())
        splits[name] = Split(rows=len(table), classes=len(labels), index=_file(index.file_name(name), content))
    dropped = [image for part in packed for image in part.dropped]
    return Manifest(
        dataset=dataset, splits=splits, classes=classes, shards=tuple(shards), source=source, dropped=tuple(dropped)
    )


def _file(name: str, content: bytes) -> File:
    return File(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _state_of_files(job: Job) -> str:
    """Return a digest of the files' sizes and times: a fixed image may have the same size."""
    found = {}
    for source in job.sources:
        if isinstance(source, ImageSource) and source.file not in found:
            with _readable(source):
                status = source.file.stat()
            found[source.file] = (status.st_size, status.st_mtime_ns)
    return _digest(*found.values())


@contextlib.contextmanager
def _readable(source: Source) -> Iterator[None]:
    """Raise InvalidInput for an unreadable file: an I/O failure isn't a corrupt image to skip."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{source.path} can't be read ({error}); check that it exists on each machine that packs, and run the "
            "same command again to resume"
        ) from error


def _undecodable(dropped: list[Dropped]) -> str:
    others = ", ".join(image.path for image in dropped[1:4]) + (" …" if len(dropped) > 4 else "")
    more = f", nor can {len(dropped) - 1} more ({others})" if len(dropped) > 1 else ""
    which = "these images" if more else "this image"
    return (
        f"{dropped[0].path} can't be decoded ({dropped[0].reason}){more}; fix or remove {which}, or leave out images "
        "that can't be decoded with --skip-bad"
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
