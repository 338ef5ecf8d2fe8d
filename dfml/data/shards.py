"""Shards: Parquet files of encoded images, one row an image.

Columns: `image` (the encoded bytes as found), `label` (int32), `class_name`, `path`, `split`. pandas, DuckDB, Ray Data
and the Hugging Face tools read them as they are. An image's bytes lie in the file as they are, one after the other, so that
whoever knows where (`dfml.data.index`) reads one with one read of the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dfml.data import index

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
    """One image: `image` holds encoded bytes (PNG, JPEG, WebP, …), `path` says where it came from."""

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
    """A shard's content, and its part of the split's index."""
    columns = {
        "image": [row.image for row in rows],
        "label": labels,
        "class_name": [row.class_name for row in rows],
        "path": [row.path for row in rows],
        "split": [row.split for row in rows],
    }
    sink = pa.BufferOutputStream()
    # The images are compressed already: compressing them again costs time and gains nothing. A dictionary would keep equal
    # images once, and so not one after the other.
    pq.write_table(
        pa.table(columns, schema=SCHEMA),
        sink,
        compression={"image": "none", "path": "zstd", "class_name": "zstd"},
        use_dictionary=["label", "class_name", "split"],
        row_group_size=len(rows),
        write_statistics=["label"],  # of the images they would hold whole images
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
