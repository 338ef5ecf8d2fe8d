"""Shards: Parquet files of encoded images, one row per image.

Columns: `image` (the original encoded bytes), `label` (int32), `class_name`, `path`, `split`.
pandas, DuckDB, Ray Data and the Hugging Face tools read them directly. An image's bytes are
contiguous and unchanged in the file, so that the index (`index.py`) allows reading an image with
one read.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dfml.data.format import index

SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class ImageRow:
    """An image in memory: its encoded bytes (PNG, JPEG, WebP, …) and its source path."""

    image: bytes
    class_name: str
    path: str
    split: str

    @property
    def size(self) -> int:
        return len(self.image)

    def read(self) -> bytes:
        return self.image


def shard_of(rows: Sequence[ImageRow], labels: Sequence[int]) -> tuple[bytes, pa.Table]:
    """Return a shard's content and its part of the split's index."""
    columns = {
        "image": [row.image for row in rows],
        "label": labels,
        "class_name": [row.class_name for row in rows],
        "path": [row.path for row in rows],
        "split": [row.split for row in rows],
    }
    sink = pa.BufferOutputStream()
    # The images are compressed already; compressing them again only costs time. A dictionary would
    # store equal images once, and so not one after the other.
    pq.write_table(
        pa.table(columns, schema=SCHEMA),
        sink,
        compression={"image": "none", "path": "zstd", "class_name": "zstd"},
        use_dictionary=["label", "class_name", "split"],
        row_group_size=len(rows),
        # Statistics of the column `image` would hold whole images.
        write_statistics=["label"],
    )
    content: bytes = sink.getvalue().to_pybytes()
    offsets, position = [], 0
    for row in rows:
        position = content.index(row.image, position)
        offsets.append(position)
        position += row.size
    located = {
        "label": labels,
        "offset": offsets,
        "size": [row.size for row in rows],
        "crc32": [zlib.crc32(row.image) for row in rows],
        "path": columns["path"],
    }
    return content, pa.table(located, schema=index.SCHEMA)
