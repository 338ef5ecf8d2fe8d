"""The index of a split: of each row its class, and where in its shard the image's bytes lie.

One small Arrow file a split (ImageNet's 1.28 million training images: about 20 MB). It is all that must be read before training
starts, and it makes a row O(1) to reach: shards are read by offset, never parsed.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dfml.data.manifest import Manifest

SCHEMA = pa.schema(
    [
        ("label", pa.int32()),
        ("offset", pa.int64()),  # of the image's bytes in its shard
        ("size", pa.int32()),
        ("crc32", pa.uint32()),
        ("path", pa.string()),
    ]
)


def file_name(split: str) -> str:
    # Not .parquet: whoever reads all Parquet files of the folder means the shards.
    return f"{split}.index.arrow"


def to_bytes(table: pa.Table) -> bytes:
    """The file's content."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table.combine_chunks())
    content: bytes = sink.getvalue().to_pybytes()
    return content


@dataclass(frozen=True)
class Index:
    """The rows of a split.

    Attributes:
        labels: class of each row, int64 (rows,).
        offsets: where its image begins in its shard, bytes, int64 (rows,).
        sizes: bytes of its image, int32 (rows,).
        checksums: CRC-32 of its image, uint32 (rows,).
        shards: its shard's number in the split, int32 (rows,).
    """

    file: Path
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    checksums: np.ndarray
    shards: np.ndarray

    @functools.cached_property
    def paths(self) -> list[str]:
        """Where each row came from; read when first asked for."""
        return _columns(self.file, "path")["path"].to_pylist()

    def fits(self, row: int, image: bytes) -> bool:
        """Whether these are the bytes that were packed."""
        return len(image) == self.sizes[row] and zlib.crc32(image) == self.checksums[row]


def read_index(file: Path, manifest: Manifest, split: str) -> Index:
    """Read a split's index from a local file."""
    table = _columns(file, "label", "offset", "size", "crc32")
    rows = [shard.rows for shard in manifest.shards_of(split)]
    return Index(
        file=file,
        labels=table["label"].to_numpy().astype(np.int64),
        offsets=table["offset"].to_numpy(),
        sizes=table["size"].to_numpy(),
        checksums=table["crc32"].to_numpy(),
        shards=np.repeat(np.arange(len(rows), dtype=np.int32), rows),
    )


def _columns(file: Path, *names: str) -> pa.Table:
    options = pa.ipc.IpcReadOptions(included_fields=[SCHEMA.get_field_index(name) for name in names])
    with pa.memory_map(str(file)) as source, pa.ipc.open_file(source, options=options) as reader:
        return reader.read_all().combine_chunks()
