"""A packed data set at hand: random access to the images of a split, whether it lies in a folder or on S3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dfml import s3, storage
from dfml.data.cache import Cache
from dfml.data.images import decode
from dfml.data.index import read_index
from dfml.data.manifest import File, Shard, read_manifest
from dfml.errors import InvalidInput


class ShardedImages:
    """The images of one split. Only the index is read at first; shards when one of their rows is.

    Args:
        place: of the packed data set, a folder or an `s3://` URI.
        split: "train", "test", …
        cache: keeps what is fetched from S3; a folder is read where it is.

    Attributes:
        dataset: the manifest's name of the data set.
        labels: class of each row, int64 (rows,).
        class_names: the manifest's names; `class_names[label]`.
        shards: the split's shards.
        shard_numbers: in which of them each row lies, int32 (rows,).
        window: how many shards can be read from at a time, so that as many more can be fetched meanwhile; None for all.

    Raises:
        InvalidInput: there is no such data set or split, a file of it is missing or damaged, or the cache has no room for it.
    """

    def __init__(self, place: str | Path, split: str, cache: Cache | None = None) -> None:
        self.place = storage.absolute(str(place))
        self.split = split
        self.cache = (cache or Cache()) if self.place.startswith(s3.PREFIX) else None
        manifest = read_manifest(self.place)
        self.dataset = manifest.dataset
        self.class_names = manifest.classes
        self.shards: Sequence[Shard] = manifest.shards_of(split)
        self.window = self._window(list(manifest.shards))
        self._index = read_index(self._path(manifest.split(split).index), manifest, split)
        self.labels: np.ndarray = self._index.labels
        self.shard_numbers: np.ndarray = self._index.shards

    @property
    def paths(self) -> list[str]:
        """Where each row came from."""
        return self._index.paths

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, row: int) -> bytes:
        """The image of a row as it was packed: PNG, JPEG, WebP, …; its shard is fetched first where it isn't at hand."""
        shard = self.shards[self.shard_numbers[row]]
        for last in (False, True):
            image = self._read(shard, row)
            if self._index.fits(row, image):
                return image
            if self.cache is None or last:
                break
            self.cache.discard(shard)  # it was whole when it came: the disk's fault
        raise InvalidInput(
            f"shard {storage.join(self.place, shard.file)} is damaged at image {self.paths[row]}, whose CRC-32 isn't the index's: "
            "copy or pack the data set again"
        )

    def image(self, row: int) -> Image.Image:
        """The decoded RGB image of a row."""
        return decode(self.encoded(row))

    def glance(self, row: int) -> Image.Image:
        """As `image`, but of a shard that isn't at hand the image alone is fetched."""
        shard = self.shards[self.shard_numbers[row]]
        if self.cache is None or self.cache.find(shard):
            return self.image(row)
        offset, size = int(self._index.offsets[row]), int(self._index.sizes[row])
        return decode(storage.read(storage.join(self.place, shard.file), offset, size))

    def require_room(self) -> None:
        """See that the cache's disk has room for the split. Raises InvalidInput: it hasn't."""
        if self.cache is not None:
            self.cache.require_room(list(self.shards))

    def fetch_ahead(self, number: int) -> None:
        """Fetch a shard that will be needed, unless it is at hand or another process is fetching it."""
        if self.cache is not None:
            shard = self.shards[number]
            self.cache.fetch_unless_others_do(shard, storage.join(self.place, shard.file))

    def _read(self, shard: Shard, row: int) -> bytes:
        while True:
            try:
                with self._path(shard).open("rb") as stream:
                    stream.seek(int(self._index.offsets[row]))
                    return stream.read(int(self._index.sizes[row]))
            except FileNotFoundError:  # of a cache: evicted between the look and the opening
                if self.cache is None:
                    raise self._missing(shard) from None

    def _path(self, file: File) -> Path:
        """A file of the data set on a local disk."""
        place = storage.join(self.place, file.file)
        if self.cache is not None:
            return self.cache.path(file, place)
        if not Path(place).is_file():
            raise self._missing(file)
        return Path(place)

    def _missing(self, file: File) -> InvalidInput:
        return InvalidInput(
            f"{storage.join(self.place, file.file)} of the manifest is missing: copy or pack the data set again"
        )

    def _window(self, shards: list[Shard]) -> int | None:
        """As the cache's size has it; a pure function of that and of the manifest, so that all workers agree on the order."""
        if self.cache is None:
            return None
        if self.cache.size is None or sum(shard.bytes for shard in shards) <= self.cache.size:
            return None
        largest = max(shard.bytes for shard in shards)
        if self.cache.size < 3 * largest:  # one that is read, one that is fetched, and the index
            raise InvalidInput(
                f"--cache-size {self.cache.size} holds fewer than 3 shards of {self.place} (the largest has {largest} bytes): give "
                f"{3 * largest} bytes or more"
            )
        return int((self.cache.size - largest) // (2 * largest))
