"""The index of a split: the class of each row, and the position of its image's bytes in its shard.

Each split has one small Arrow file (about 20 MB for ImageNet's 1.28 million training images). It is
all that must be read before training starts, and it gives access to any row in O(1): shards are
read by offset, never parsed.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dfml.data.format.manifest import Manifest

SCHEMA = pa.schema(
    [
        ("label", pa.int32()),
        ("offset", pa.int64()),  # bytes from the start of the shard
        ("size", pa.int32()),
        ("crc32", pa.uint32()),
        ("path", pa.string()),
    ]
)


def file_name(split: str) -> str:
    # Not .parquet, so that programs that read all Parquet files of the folder find only shards.
    return f"{split}.index.arrow"


def to_bytes(table: pa.Table) -> bytes:
    """Return the content of the index file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table.combine_chunks())
    content: bytes = sink.getvalue().to_pybytes()
    return content


@dataclass(frozen=True)
class Index:
    """The rows of a split.

    Attributes:
        file: the local index file.
        labels: the class of each row, int64 (rows,).
        offsets: the position of its image in its shard, in bytes, int64 (rows,).
        sizes: the size of its image, in bytes, int32 (rows,).
        checksums: the CRC-32 of its image, uint32 (rows,).
        shards: the number of its shard in the split, int32 (rows,).
    """

    file: Path
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    checksums: np.ndarray
    shards: np.ndarray

    @functools.cached_property
    def paths(self) -> list[str]:
        """Return the source path of each row; read on first use."""
        return _columns(self.file, "path")["path"].to_pylist()

    def fits(self, row: int, image: bytes) -> bool:
        """Return whether these are the bytes that were packed."""
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
