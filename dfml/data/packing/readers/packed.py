"""The reader of a packed data set, for packing it again elsewhere."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfml.data.format.index import read_index
from dfml.data.format.manifest import read_manifest
from dfml.data.packing.readers.checks import check_sources
from dfml.data.packing.readers.files import existing
from dfml.data.packing.source import ImageSource


@dataclass(frozen=True, slots=True)
class PackedSource(ImageSource):
    """An image in a shard, with the CRC-32 of its bytes: a damaged one must not be packed again."""

    crc32: int

    def read(self) -> bytes:
        content = ImageSource.read(self)
        if zlib.crc32(content) != self.crc32:
            raise OSError(f"{self.file} is damaged there: its CRC-32 isn't the index's")
        return content


def read_packed(root: Path) -> list[ImageSource]:
    """Return the images of a packed data set, split by split, so that classes keep their labels.

    Raises:
        InvalidInput: `root` isn't a packed data set, or one of its files is missing.
    """
    manifest = read_manifest(root)
    sources: list[ImageSource] = []
    for split, content in manifest.splits.items():
        rows = read_index(existing(root / content.index.file), manifest, split)
        files = [existing(root / shard.file) for shard in manifest.shards_of(split)]
        # Images in several shards are mixed, so their classes don't occur in the order of the
        # labels.
        order = np.argsort(rows.labels, kind="stable") if len(files) > 1 else np.arange(len(rows.labels))
        sources += [
            PackedSource(
                files[rows.shards[row]],
                manifest.classes[rows.labels[row]],
                rows.paths[row],
                split,
                offset=int(rows.offsets[row]),
                size=int(rows.sizes[row]),
                crc32=int(rows.checksums[row]),
            )
            for row in order.tolist()
        ]
    return check_sources(sources, root)
