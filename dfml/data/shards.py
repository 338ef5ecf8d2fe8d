"""Shards: Parquet files of encoded images, one row an image.

Columns: `image` (the encoded bytes as found), `label` (int32), `class_name`, `path`, `split`. pandas, DuckDB, Ray Data
and the Hugging Face tools read them as they are.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from dfml.data.manifest import FILE_NAME, Manifest, Shard, Split, read_manifest, write_manifest
from dfml.errors import InvalidInput

SHARD_BYTES = 32 * 2**20  # large enough for one S3 request to be worth its latency, small enough to start on early

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
    """One image to pack: `image` holds encoded bytes (PNG, JPEG, WebP, …), `path` says where it came from."""

    image: bytes
    class_name: str
    path: str
    split: str


def pack(rows: Iterable[ImageRow], root: Path, dataset: str, shard_bytes: int = SHARD_BYTES) -> Manifest:
    """Write `rows` as shards and a manifest below `root`.

    Rows of one split must follow one another; the order within a split is kept. A class's label is its place in the order
    in which classes are first seen. An existing manifest is removed first and the new one written last.

    Raises:
        InvalidInput: there are no rows, a split comes twice, or an image can't be decoded (its path is named).
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / FILE_NAME).unlink(missing_ok=True)
    shards: list[Shard] = []
    try:
        manifest = _pack(rows, root, dataset, shard_bytes, shards)
    except BaseException:
        for shard in shards:
            (root / shard.file).unlink(missing_ok=True)
        raise
    write_manifest(root, manifest)
    return manifest


def _pack(rows: Iterable[ImageRow], root: Path, dataset: str, shard_bytes: int, shards: list[Shard]) -> Manifest:
    """Write the shards, each of which is appended to `shards` when it is written."""
    labels: dict[str, int] = {}
    splits: dict[str, Split] = {}
    for split, rows_of_split in groupby(rows, key=lambda row: row.split):
        if split in splits:
            raise InvalidInput(
                f"rows of split {split!r} don't follow one another: sort the rows by split before packing"
            )
        images, seen = 0, set()
        for number, part in enumerate(_parts(rows_of_split, shard_bytes)):
            shards.append(_write_shard(root, f"{split}-{number:05d}.parquet", split, part, labels))
            images += len(part)
            seen |= {row.class_name for row in part}
        splits[split] = Split(rows=images, classes=len(seen))
    if not shards:
        raise InvalidInput(f"there are no images to pack into {root}: give at least one")
    return Manifest(dataset=dataset, splits=splits, classes=tuple(labels), shards=tuple(shards))


def _parts(rows: Iterable[ImageRow], shard_bytes: int) -> Iterator[list[ImageRow]]:
    part: list[ImageRow] = []
    size = 0
    for row in rows:
        if part and size + len(row.image) > shard_bytes:
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row.image)
    if part:
        yield part


def _write_shard(root: Path, file: str, split: str, rows: list[ImageRow], labels: dict[str, int]) -> Shard:
    for row in rows:
        try:
            decode(row.image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL raises
            raise InvalidInput(f"{row.path} can't be decoded ({error}): mend or remove this image") from error
    columns = {
        "image": [row.image for row in rows],
        "label": [labels.setdefault(row.class_name, len(labels)) for row in rows],
        "class_name": [row.class_name for row in rows],
        "path": [row.path for row in rows],
        "split": [row.split for row in rows],
    }
    partial = root / (file + ".partial")
    # The images are compressed already; compressing them again costs time and gains nothing.
    pq.write_table(pa.table(columns, schema=SCHEMA), partial, compression={"image": "none", "path": "zstd"})
    partial.rename(root / file)
    content = (root / file).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return Shard(file=file, split=split, rows=len(rows), bytes=len(content), sha256=sha256)


def read_labels(root: Path, split: str) -> np.ndarray:
    """The class of each row of a split, int64, without reading the images."""
    shards = read_manifest(root).shards_of(split)
    labels = [pq.read_table(root / shard.file, columns=["label"])["label"].to_numpy() for shard in shards]
    return np.concatenate(labels).astype(np.int64)


def decode(encoded: bytes) -> Image.Image:
    """Decode an image of any format PIL opens to RGB; see `to_rgb`."""
    with Image.open(io.BytesIO(encoded)) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, upright by its EXIF; what is transparent becomes white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


class ShardedImages:
    """Random access to the images of one split of a packed data set.

    Attributes:
        dataset: the manifest's name of the data set.
        labels: class of each row, int64 (rows,).
        class_names: the manifest's names; `class_names[label]`.
        paths: where each row came from.
    """

    def __init__(self, root: Path, split: str) -> None:
        manifest = read_manifest(root)
        tables = []
        for shard in manifest.shards_of(split):
            if not (root / shard.file).is_file():
                raise InvalidInput(
                    f"shard {root / shard.file} of the manifest is missing: copy or pack the data set again"
                )
            content = (root / shard.file).read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != shard.sha256:
                raise InvalidInput(
                    f"shard {root / shard.file} is damaged: its SHA-256 is {found}, the manifest says {shard.sha256}; copy or pack it again"
                )
            tables.append(pq.read_table(pa.BufferReader(content), schema=SCHEMA))
        table = pa.concat_tables(tables).combine_chunks()
        self.dataset = manifest.dataset
        self.split = split
        self.class_names = manifest.classes
        self.labels: np.ndarray = table["label"].to_numpy().astype(np.int64)
        self.paths: list[str] = table["path"].to_pylist()
        self._images = table["image"]

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, row: int) -> bytes:
        """The image of a row as it was packed: PNG, JPEG, WebP, …"""
        image: bytes = self._images[row].as_py()
        return image

    def image(self, row: int) -> Image.Image:
        """The decoded RGB image of a row."""
        return decode(self.encoded(row))
