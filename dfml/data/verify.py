"""Checks every byte of a packed data set: sizes, hashes, counts, and that each image decodes."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dfml import storage
from dfml.data.cores import over_cores
from dfml.data.images import UNDECODABLE, decode
from dfml.data.index import Index, read_index
from dfml.data.manifest import File, Manifest, Shard, read_manifest
from dfml.data.shards import SCHEMA
from dfml.s3 import Unreachable


@dataclass(frozen=True)
class _Part:
    """A shard, and its rows of the split's index."""

    shard: Shard
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    checksums: np.ndarray
    paths: list[str]


def verify(
    place: str, processes: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[str]:
    """A sentence for each thing that is wrong with a packed data set; none where it is whole.

    Raises:
        InvalidInput: there is no manifest that can be read.
    """
    manifest = read_manifest(place)
    parts: list[_Part] = []
    for name, split in manifest.splits.items():
        shards = manifest.shards_of(name)
        content, problem = _content(place, split.index)
        if problem:
            yield problem
            continue
        try:
            rows = _index(content, manifest, name)
        except (pa.ArrowException, OSError) as error:
            yield f"{split.index.file} is no index that can be read ({_line(error)})"
            continue
        ends = np.cumsum([shard.rows for shard in shards])
        if not len(rows.labels) == ends[-1] == split.rows:
            yield (
                f"split {name!r} has {split.rows} rows by the manifest, {ends[-1]} by its shards, {len(rows.labels)} by "
                f"{split.index.file}"
            )
            continue
        if (classes := len(np.unique(rows.labels))) != split.classes:
            yield f"split {name!r} has {split.classes} classes by the manifest, {classes} by {split.index.file}"
        for shard, end in zip(shards, ends, strict=True):
            of = slice(end - shard.rows, end)
            columns = (rows.labels[of], rows.offsets[of], rows.sizes[of], rows.checksums[of], rows.paths[of])
            parts.append(_Part(shard, *columns))
    done, total = 0, sum(part.shard.bytes for part in parts)
    for part, problems in over_cores(partial(_check, place, manifest.classes), parts, processes):
        yield from problems
        done += part.shard.bytes
        progress(done, total)


def _index(content: bytes, manifest: Manifest, split: str) -> Index:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "index.arrow"
        file.write_bytes(content)
        rows = read_index(file, manifest, split)
        rows.paths  # noqa: B018  (read while the file is there)
    return rows


def _content(place: str, file: File) -> tuple[bytes, str | None]:
    """A file's content, and what is wrong with it."""
    try:
        content = storage.read(storage.join(place, file.file))
    except FileNotFoundError:
        return b"", f"{file.file} is missing"
    except Unreachable:
        raise
    except OSError as error:  # the disk's fault, or a right that lacks
        return b"", f"{file.file} can't be read ({error})"
    found = hashlib.sha256(content).hexdigest()
    if len(content) != file.bytes or found != file.sha256:
        return b"", (
            f"{file.file} is damaged: it has {len(content)} bytes and SHA-256 {found}, the manifest says {file.bytes} and {file.sha256}"
        )
    return content, None


def _check(place: str, classes: tuple[str, ...], part: _Part) -> list[str]:
    shard = part.shard
    content, problem = _content(place, shard)
    if problem:
        return [problem]
    try:
        rows = pq.read_table(io.BytesIO(content), schema=SCHEMA).to_pylist()
    except (pa.ArrowException, OSError) as error:
        return [f"{shard.file} is no shard that can be read ({_line(error)})"]
    if len(rows) != shard.rows:
        return [f"{shard.file} has {len(rows)} rows, the manifest says {shard.rows}"]
    problems = []
    numbers = (part.labels, part.offsets, part.sizes, part.checksums)
    for row, label, offset, size, checksum, path in zip(rows, *(n.tolist() for n in numbers), part.paths, strict=True):
        name = classes[label] if 0 <= label < len(classes) else None
        if (row["label"], row["class_name"], row["path"], row["split"]) != (label, name, path, shard.split):
            problems.append(f"{shard.file} and the index differ in what they say of {path}")
        if row["image"] != content[offset : offset + size]:
            problems.append(f"{shard.file}: the index doesn't say where the image {path} lies")
        if zlib.crc32(row["image"]) != checksum:
            problems.append(f"{shard.file}: the index has another CRC-32 than the image {path}")
        try:
            decode(row["image"])
        except UNDECODABLE as error:
            problems.append(f"{shard.file}: {path} can't be decoded ({_line(error)})")
    return problems


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
