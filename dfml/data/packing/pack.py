"""Packing of the images that a reader found into shards, one index per split and the manifest.

The plan (which image goes to which shard) is made first and depends only on the images' names and
sizes, so shards can be made in any order and by many processes, and a killed run can be resumed:
finished shards are recorded in `packing/`, one small file per shard, until the manifest is written.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from dfml import storage
from dfml.data.format import index
from dfml.data.format.images import UNDECODABLE, decode, undecodable_reason
from dfml.data.format.manifest import (
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
from dfml.data.packing.journal import begin, record_of, tidy
from dfml.data.packing.shard_plan import SHARD_BYTES, Job, digest_of, plan_shards
from dfml.data.packing.source import ImageSource, Source
from dfml.errors import InvalidInput


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
        journal = record_of(self.uri, job.file)
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
    shard keeps its order; the images of a larger one are mixed (see `shard_plan`).

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
    jobs, classes = plan_shards(list(sources), shard_bytes)
    if not jobs:
        raise InvalidInput(f"there are no images to pack into {uri}; give at least one")
    source = digest_of(FORMAT_VERSION, dataset, classes, *(job.digest for job in jobs))
    if is_packed(uri) and not overwrite:
        manifest = _already(uri, source)
        # The run that wrote the manifest may have been killed before it tidied up.
        tidy(uri, manifest)
        return manifest
    begin(uri, {job.file for job in jobs} | {index.file_name(job.split) for job in jobs})
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
    return digest_of(*found.values())


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
