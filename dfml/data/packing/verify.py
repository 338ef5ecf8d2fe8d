"""Verification of a packed data set: sizes, hashes, counts, and decoding of each image."""

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
from dfml.data.format.images import UNDECODABLE, decode
from dfml.data.format.index import Index, read_index
from dfml.data.format.manifest import File, Manifest, Shard, read_manifest
from dfml.data.format.shards import SCHEMA
from dfml.data.packing.cores import map_in_processes
from dfml.errors import one_line
from dfml.s3 import Unreachable


@dataclass(frozen=True)
class _Part:
    """A shard and its rows of the split's index."""

    shard: Shard
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    checksums: np.ndarray
    paths: list[str]


def verify(
    uri: str, processes: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[str]:
    """Yield a sentence for each defect of a packed data set.

    Raises:
        InvalidInput: there is no valid manifest.
    """
    manifest = read_manifest(uri)
    parts: list[_Part] = []
    for name, split in manifest.splits.items():
        shards = manifest.shards_of(name)
        content, problem = _content(uri, split.index)
        if problem:
            yield problem
            continue
        try:
            rows = _index(content, manifest, name)
        except (pa.ArrowException, OSError) as error:
            yield f"{split.index.file} is not a valid index ({one_line(error)})"
            continue
        ends = np.cumsum([shard.rows for shard in shards])
        if not len(rows.labels) == ends[-1] == split.rows:
            yield (
                f"split {name!r} has {split.rows} rows according to the manifest, {ends[-1]} according to its shards, "
                f"{len(rows.labels)} according to {split.index.file}"
            )
            continue
        if (classes := len(np.unique(rows.labels))) != split.classes:
            yield (
                f"split {name!r} has {split.classes} classes according to the manifest, {classes} according to "
                f"{split.index.file}"
            )
        for shard, end in zip(shards, ends, strict=True):
            of = slice(end - shard.rows, end)
            columns = (rows.labels[of], rows.offsets[of], rows.sizes[of], rows.checksums[of], rows.paths[of])
            parts.append(_Part(shard, *columns))
    done, total = 0, sum(part.shard.bytes for part in parts)
    for part, problems in map_in_processes(partial(_check, uri, manifest.classes), parts, processes):
        yield from problems
        done += part.shard.bytes
        progress(done, total)


def _index(content: bytes, manifest: Manifest, split: str) -> Index:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "index.arrow"
        file.write_bytes(content)
        rows = read_index(file, manifest, split)
        rows.paths  # noqa: B018  (reads them while the file exists)
    return rows


def _content(uri: str, file: File) -> tuple[bytes, str | None]:
    """Return a file's content and its defect, or None."""
    try:
        content = storage.read(storage.join(uri, file.file))
    except FileNotFoundError:
        return b"", f"{file.file} is missing"
    except Unreachable:
        raise
    except OSError as error:
        # An I/O error or missing permission.
        return b"", f"{file.file} can't be read ({error})"
    found = hashlib.sha256(content).hexdigest()
    if len(content) != file.bytes or found != file.sha256:
        return b"", (
            f"{file.file} is damaged: it has {len(content)} bytes and SHA-256 {found}, not the manifest's {file.bytes} "
            f"and {file.sha256}"
        )
    return content, None


def _check(uri: str, classes: tuple[str, ...], part: _Part) -> list[str]:
    shard = part.shard
    content, problem = _content(uri, shard)
    if problem:
        return [problem]
    try:
        rows = pq.read_table(io.BytesIO(content), schema=SCHEMA).to_pylist()
    except (pa.ArrowException, OSError) as error:
        return [f"{shard.file} is not a valid shard ({one_line(error)})"]
    if len(rows) != shard.rows:
        return [f"{shard.file} has {len(rows)} rows, not the manifest's {shard.rows}"]
    problems = []
    numbers = (part.labels, part.offsets, part.sizes, part.checksums)
    for row, label, offset, size, checksum, path in zip(rows, *(n.tolist() for n in numbers), part.paths, strict=True):
        name = classes[label] if 0 <= label < len(classes) else None
        if (row["label"], row["class_name"], row["path"], row["split"]) != (label, name, path, shard.split):
            problems.append(f"{shard.file} and the index have different entries for {path}")
        if row["image"] != content[offset : offset + size]:
            problems.append(f"{shard.file}: the index has a wrong position for the image {path}")
        if zlib.crc32(row["image"]) != checksum:
            problems.append(f"{shard.file}: the index has a wrong CRC-32 for the image {path}")
        try:
            decode(row["image"])
        except UNDECODABLE as error:
            problems.append(f"{shard.file}: {path} can't be decoded ({one_line(error)})")
    return problems
