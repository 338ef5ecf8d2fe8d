"""Packing: images, wherever a reader found them, to shards, an index a split, and the manifest.

The plan (which image goes to which shard) is made first and depends on the images' names and sizes alone, so shards can be made
in any order, by many processes, and a run that was killed goes on: what is finished stands in `packing/`, one small file a shard,
until the manifest is written.
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
from dfml.data import index
from dfml.data.images import UNDECODABLE, decode, undecodable_reason
from dfml.data.manifest import (
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
from dfml.data.shards import ImageRow, shard_of
from dfml.data.source import ImageSource
from dfml.errors import InvalidInput

SHARD_BYTES = 32 * 2**20  # large enough for one S3 request to be worth its latency, small enough to start on early
RUN = 8  # images of a class that stay together
JOURNAL = "packing"
FILES = "files.json"  # in there: names of the shards and indices that may lie at the place


class Source(Protocol):
    """An image to pack: `dfml.data.source.ImageSource`, or an `ImageRow` in memory."""

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
    digest: str  # of the above

    @property
    def bytes(self) -> int:
        return sum(source.size for source in self.sources)


class Packed(BaseModel):
    """What became of a job.

    Attributes:
        digest: the job's.
        files: the state of the files that its images were read from.
        shard: None where none of the images could be decoded, or one couldn't and none may be left out.
        rows: the shard's part of the index, by column.
        dropped: images that can't be decoded.
    """

    digest: str
    files: str
    shard: Shard | None
    rows: dict[str, list[Any]]
    dropped: list[Dropped]


# Does all jobs, in any order, and yields what became of each as it ends: in this process, or over many.
# Closed early, it leaves nothing running.
Runner = Callable[[Callable[[Job], Packed], Sequence[Job]], Generator[tuple[Job, Packed], None, None]]


@dataclass(frozen=True)
class _Packer:
    """Makes a shard at a place, unless it is there already."""

    place: str
    skip_bad: bool

    def __call__(self, job: Job) -> Packed:
        journal = _journal(self.place, job.file)
        files = _state_of_files(job)
        try:
            packed = Packed.model_validate_json(storage.read(journal))
            if (packed.digest, packed.files) == (job.digest, files) and (self.skip_bad or not packed.dropped):
                return packed
        except (FileNotFoundError, ValueError):  # not begun, or of an older format
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
        storage.write(storage.join(self.place, job.file), content)
        shard = Shard(split=job.split, rows=len(rows), **_file(job.file, content).model_dump())
        return Packed(digest=job.digest, files=files, shard=shard, rows=located.to_pydict(), dropped=dropped)


def in_this_process(
    pack_one: Callable[[Job], Packed], jobs: Sequence[Job]
) -> Generator[tuple[Job, Packed], None, None]:
    """The plainest `Runner`."""
    for job in jobs:
        yield job, pack_one(job)


def pack(
    sources: Iterable[Source],
    place: str | Path,
    dataset: str,
    shard_bytes: int = SHARD_BYTES,
    skip_bad: bool = False,
    overwrite: bool = False,
    run: Runner = in_this_process,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write images as shards, an index a split and a manifest to a folder or an `s3://` URI; goes on where a killed run stopped.

    A class's label is its place in the order in which classes are first seen. Within a split that takes several shards images are
    mixed (see `_mixed`); one that fits one shard keeps its order.

    Args:
        sources: at least one.
        place: an empty one, one that such a run left, or, with `overwrite`, one that holds a packed data set.
        dataset: its name.
        shard_bytes: of images in a shard, at most, unless one image is larger.
        skip_bad: leave out what can't be decoded, and record it in the manifest.
        overwrite: replace another data set.
        run: does the work.
        progress: called with the bytes of images done and of all.

    Raises:
        InvalidInput: there are no images, one can't be read, some can't be decoded (the first are named), or the place holds
            another data set.
    """
    place = storage.absolute(str(place))
    jobs, classes = _plan(list(sources), shard_bytes)
    if not jobs:
        raise InvalidInput(f"there are no images to pack into {place}: give at least one")
    source = _digest(FORMAT_VERSION, dataset, classes, *(job.digest for job in jobs))
    if is_packed(place) and not overwrite:
        manifest = _already(place, source)
        _tidy(place, manifest)  # the run that wrote it may have been killed right after
        return manifest
    _begin(place, jobs)
    finished: dict[str, Packed] = {}
    done, total = 0, sum(job.bytes for job in jobs)
    with contextlib.closing(run(_Packer(place, skip_bad), jobs)) as results:
        for job, packed in results:
            finished[job.file] = packed
            done += job.bytes
            progress(done, total)
    dropped = [image for job in jobs for image in finished[job.file].dropped]
    if dropped and not skip_bad:
        raise InvalidInput(_undecodable(dropped))
    manifest = _manifest(place, dataset, classes, source, [finished[job.file] for job in jobs])
    write_manifest(place, manifest)
    _tidy(place, manifest)
    return manifest


def _already(place: str, source: str) -> Manifest:
    try:
        manifest = read_manifest(place)
    except InvalidInput as error:
        raise InvalidInput(
            f"{place} holds a packed data set that this code can't read: name another place, or say --overwrite"
        ) from error
    if manifest.source != source:
        raise InvalidInput(
            f"{place} holds another packed data set ({manifest.dataset!r}, manifest {manifest_sha256(place)[:12]}): "
            "name another place, or say --overwrite"
        )
    return manifest


def _begin(place: str, jobs: list[Job]) -> None:
    """Note what may lie at the place from now on (of this run, of killed ones, of a data set that is replaced), and drop the manifest."""
    files = _noted(place) | {job.file for job in jobs} | {index.file_name(job.split) for job in jobs}
    if is_packed(place):
        with contextlib.suppress(InvalidInput):  # of another format: its files' names are unknown
            files |= _files(read_manifest(place))
    storage.write(storage.join(place, JOURNAL, FILES), json.dumps(sorted(files)).encode())
    storage.delete(storage.join(place, FILE_NAME))


def _tidy(place: str, manifest: Manifest) -> None:
    """Remove what `_begin` noted and the manifest doesn't name, and the journals."""
    files = _noted(place)
    if not files:
        return
    for file in files - _files(manifest):
        storage.delete(storage.join(place, file))
    for file in files:
        storage.delete(_journal(place, file))
    if not place.startswith(s3.PREFIX):  # there an object is whole or not at all
        for folder in (Path(place), Path(place, JOURNAL)):
            for partial in folder.glob("*.partial"):  # `storage.write` of a process that was killed
                if partial.name.rsplit(".", 2)[0].removesuffix(".json") in files:
                    partial.unlink(missing_ok=True)
    storage.delete(storage.join(place, JOURNAL, FILES))
    storage.delete_empty(storage.join(place, JOURNAL))


def _noted(place: str) -> set[str]:
    try:
        return set(json.loads(storage.read(storage.join(place, JOURNAL, FILES))))
    except (FileNotFoundError, ValueError):
        return set()


def _files(manifest: Manifest) -> set[str]:
    return {shard.file for shard in manifest.shards} | {split.index.file for split in manifest.splits.values()}


def _journal(place: str, file: str) -> str:
    return storage.join(place, JOURNAL, f"{file}.json")


def _plan(sources: list[Source], shard_bytes: int) -> tuple[list[Job], tuple[str, ...]]:
    """The shards to make, split by split, and the names of the classes by label."""
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
    """Images in runs of up to `RUN` of a class, the runs shuffled (a pure function of the list).

    So any shard holds many classes, and several images of each: training can begin with the first shard, plainly shuffled or in
    P×K batches.
    """
    runs: dict[tuple[str, int], list[Source]] = {}
    seen: dict[str, int] = {}
    for source in sources:
        number = seen.get(source.class_name, 0)
        seen[source.class_name] = number + 1
        runs.setdefault((source.class_name, number // RUN), []).append(source)
    every = list(runs.values())
    return [source for place in np.random.default_rng(len(sources)).permutation(len(every)) for source in every[place]]


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


def _manifest(place: str, dataset: str, classes: tuple[str, ...], source: str, packed: list[Packed]) -> Manifest:
    """Write each split's index; returns what the manifest is to say."""
    shards = [part.shard for part in packed if part.shard is not None]
    if not shards:
        raise InvalidInput(f"none of the images for {place} can be decoded: give at least one that can")
    splits = {}
    for name in dict.fromkeys(shard.split for shard in shards):
        parts = [part.rows for part in packed if part.shard is not None and part.shard.split == name]
        table = pa.concat_tables([pa.table(rows, schema=index.SCHEMA) for rows in parts])
        content = index.to_bytes(table)
        storage.write(storage.join(place, index.file_name(name)), content)
        labels = np.unique(table["label"].to_numpy())
        splits[name] = Split(rows=len(table), classes=len(labels), index=_file(index.file_name(name), content))
    dropped = [image for part in packed for image in part.dropped]
    return Manifest(
        dataset=dataset, splits=splits, classes=classes, shards=tuple(shards), source=source, dropped=tuple(dropped)
    )


def _file(name: str, content: bytes) -> File:
    return File(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _state_of_files(job: Job) -> str:
    """Changes when a file that the job's images lie in does: an image may be mended and keep its size."""
    found = {}
    for source in job.sources:
        if isinstance(source, ImageSource) and source.file not in found:
            with _readable(source):
                status = source.file.stat()
            found[source.file] = (status.st_size, status.st_mtime_ns)
    return _digest(*found.values())


@contextlib.contextmanager
def _readable(source: Source) -> Iterator[None]:
    """An image that can't be read isn't a bad one: where a disk or a machine is away, images must not be left out."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{source.path} can't be read ({error}): see that it is there, on each machine that packs, and the same command goes on"
        ) from error


def _undecodable(dropped: list[Dropped]) -> str:
    others = ", ".join(image.path for image in dropped[1:4]) + (" …" if len(dropped) > 4 else "")
    more = f", nor can {len(dropped) - 1} more ({others})" if len(dropped) > 1 else ""
    which = "these images" if more else "this image"
    return f"{dropped[0].path} can't be decoded ({dropped[0].reason}){more}: mend or remove {which}, or leave out what can't be decoded with --skip-bad"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
