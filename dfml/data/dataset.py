"""A packed data set at hand: random access to the images of a split, whether it lies in a folder or on S3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dfml import s3, storage
from dfml.data.cache import Cache
from dfml.data.images import decode
from dfml.data.index import Index, read_index
from dfml.data.manifest import File, Manifest, Shard, read_manifest
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
        self.window = self._window(manifest)
        self._index_file = manifest.split(split).index
        self._index = self._read_index(manifest)
        self.labels: np.ndarray = self._index.labels
        self.shard_numbers: np.ndarray = self._index.shards
        self._files = [str(self._local(shard)) for shard in self.shards]

    @property
    def paths(self) -> list[str]:
        """Where each row came from."""
        self._path(self._index_file)  # where a cache removed it meanwhile, it is fetched again
        return self._index.paths

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, row: int) -> bytes:
        """The image of a row as it was packed: PNG, JPEG, WebP, …; its shard is fetched first where it isn't at hand."""
        number = int(self.shard_numbers[row])
        shard = self.shards[number]
        for last in (False, True):
            image = self._read(number, row)
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
        image = storage.read(storage.join(self.place, shard.file), offset, size)
        return decode(image) if self._index.fits(row, image) else self.image(row)

    def require_room(self) -> None:
        """See that the cache's disk has room for the split. Raises InvalidInput: it hasn't."""
        if self.cache is not None:
            self.cache.require_room(list(self.shards))

    def fetch_ahead(self, number: int) -> None:
        """Fetch a shard that will be needed, unless it is at hand or another process is fetching it."""
        if self.cache is not None:
            shard = self.shards[number]
            self.cache.fetch_unless_others_do(shard, storage.join(self.place, shard.file))

    def _read(self, number: int, row: int) -> bytes:
        """The bytes of a row. Every image of every epoch comes by here: no look before the opening, no `Path`, no buffer."""
        if self.cache is not None:
            self.cache.touch(self.shards[number])
        while True:
            try:
                file = os.open(self._files[number], os.O_RDONLY)
            except FileNotFoundError:  # not fetched yet, or evicted
                self._path(self.shards[number])
                continue
            try:
                return os.pread(file, int(self._index.sizes[row]), int(self._index.offsets[row]))
            finally:
                os.close(file)

    def _read_index(self, manifest: Manifest) -> Index:
        while True:
            try:
                return read_index(self._whole(self._index_file), manifest, self.split)
            except FileNotFoundError:  # as in `_read`
                if self.cache is None:
                    raise self._missing(self._index_file) from None

    def _whole(self, file: File) -> Path:
        """A file on a local disk, read and found to be what the manifest says; images have checksums of their own."""
        for last in (False, True):
            path = self._path(file)
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest == file.sha256:
                return path
            if self.cache is None or last:
                break
            self.cache.discard(file)
        raise InvalidInput(
            f"{storage.join(self.place, file.file)} is damaged: its SHA-256 is {digest}, the manifest says {file.sha256}; copy or "
            "pack the data set again"
        )

    def _path(self, file: File) -> Path:
        """A file of the data set on a local disk."""
        place = storage.join(self.place, file.file)
        if self.cache is not None:
            return self.cache.path(file, place)
        if not self._local(file).is_file():
            raise self._missing(file)
        return self._local(file)

    def _local(self, file: File) -> Path:
        return self.cache.local(file) if self.cache is not None else Path(self.place, file.file)

    def _missing(self, file: File) -> InvalidInput:
        return InvalidInput(
            f"{storage.join(self.place, file.file)} of the manifest is missing: copy or pack the data set again"
        )

    def _window(self, manifest: Manifest) -> int | None:
        """As the cache's size has it; a pure function of that and of the manifest, so that all workers agree on the order."""
        if self.cache is None:
            return None
        files = [*manifest.shards, *(split.index for split in manifest.splits.values())]
        if self.cache.size is None or sum(file.bytes for file in files) <= self.cache.size:
            return None
        largest = max(shard.bytes for shard in manifest.shards)
        if self.cache.size < 3 * largest:  # one that is read, one that is fetched, and the index
            raise InvalidInput(
                f"--cache-size {self.cache.size} holds fewer than 3 shards of {self.place} (the largest has {largest} bytes): give "
                f"{3 * largest} bytes or more"
            )
        return int((self.cache.size - largest) // (2 * largest))
