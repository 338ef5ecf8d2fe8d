"""Random access to the images of a packed data set in a folder or on S3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dfml import s3, storage
from dfml.data.format.images import decode
from dfml.data.format.index import Index, read_index
from dfml.data.format.manifest import File, Manifest, Shard, read_manifest
from dfml.data.streaming.cache import Cache
from dfml.errors import InvalidInput


class ShardedImages:
    """The images of one split. The index is read at once, a shard only when a row of it is read.

    Args:
        uri: the folder or `s3://` URI of the packed data set.
        split: the split's name: "train", "test", …
        cache: the cache for files from S3; not used for a folder.

    Attributes:
        dataset: the data set's name in the manifest.
        labels: the class of each row, int64 (rows,).
        class_names: the classes' names by label.
        shards: the split's shards.
        shard_numbers: the number of each row's shard, int32 (rows,).
        window: the number of shards to read from at a time, so that the cache has room to fetch as
            many more; None: all.

    Raises:
        InvalidInput: there is no such data set or split, one of its files is missing or damaged, or
            the cache has no room for it.
    """

    def __init__(self, uri: str | Path, split: str, cache: Cache | None = None) -> None:
        self.uri = storage.absolute(str(uri))
        self.split = split
        self.cache = (cache or Cache()) if self.uri.startswith(s3.PREFIX) else None
        manifest = read_manifest(self.uri)
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
        """Return the source path of each row."""
        # Fetches the index again if it was evicted from the cache.
        self._path(self._index_file)
        return self._index.paths

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, row: int) -> bytes:
        """Return the encoded image of a row as it was packed; fetch its shard if it isn't local."""
        number = int(self.shard_numbers[row])
        shard = self.shards[number]
        for last in (False, True):
            image = self._read(number, row)
            if self._index.fits(row, image):
                return image
            if self.cache is None or last:
                break
            # The shard was intact when it was fetched, so the disk damaged it.
            self.cache.discard(shard)
        raise InvalidInput(
            f"shard {storage.join(self.uri, shard.file)} is damaged at image {self.paths[row]}, whose CRC-32 isn't "
            "the index's; copy or pack the data set again"
        )

    def image(self, row: int) -> Image.Image:
        """Return the decoded RGB image of a row."""
        return decode(self.encoded(row))

    def read_single(self, row: int) -> Image.Image:
        """Return the decoded RGB image of a row; fetch only that image if its shard isn't local."""
        shard = self.shards[self.shard_numbers[row]]
        if self.cache is None or self.cache.find(shard):
            return self.image(row)
        offset, size = int(self._index.offsets[row]), int(self._index.sizes[row])
        image = storage.read(storage.join(self.uri, shard.file), offset, size)
        return decode(image) if self._index.fits(row, image) else self.image(row)

    def require_room(self) -> None:
        """Check that the cache's disk has room for the split.

        Raises:
            InvalidInput: it doesn't.
        """
        if self.cache is not None:
            self.cache.require_room(list(self.shards))

    def fetch_ahead(self, number: int) -> None:
        """Fetch a shard ahead of its use, unless it is local or another process is fetching it."""
        if self.cache is not None:
            shard = self.shards[number]
            self.cache.fetch_unless_others_do(shard, storage.join(self.uri, shard.file))

    def _read(self, number: int, row: int) -> bytes:
        """Return the bytes of a row. Hot path: no stat before open, no `Path`, unbuffered."""
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
            except FileNotFoundError:
                # With a cache: evicted meanwhile, so fetched again.
                if self.cache is None:
                    raise self._missing(self._index_file) from None

    def _whole(self, file: File) -> Path:
        """Return the local path of a file after checking its SHA-256 (each image has a CRC-32)."""
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
            f"{storage.join(self.uri, file.file)} is damaged: its SHA-256 is {digest}, not the manifest's "
            f"{file.sha256}; copy or pack the data set again"
        )

    def _path(self, file: File) -> Path:
        """Return the local path of a file of the data set; fetch it if necessary."""
        uri = storage.join(self.uri, file.file)
        if self.cache is not None:
            return self.cache.path(file, uri)
        if not self._local(file).is_file():
            raise self._missing(file)
        return self._local(file)

    def _local(self, file: File) -> Path:
        return self.cache.local(file) if self.cache is not None else Path(self.uri, file.file)

    def _missing(self, file: File) -> InvalidInput:
        return InvalidInput(
            f"{storage.join(self.uri, file.file)} of the manifest is missing; copy or pack the data set again"
        )

    def _window(self, manifest: Manifest) -> int | None:
        """Return how many shards to read from at a time.

        Depends on the cache size and the manifest only, so that all workers agree on the order.
        """
        if self.cache is None:
            return None
        files = [*manifest.shards, *(split.index for split in manifest.splits.values())]
        if self.cache.size is None or sum(file.bytes for file in files) <= self.cache.size:
            return None
        largest = max(shard.bytes for shard in manifest.shards)
        # Room for a shard that is read, one that is fetched, and the index.
        if self.cache.size < 3 * largest:
            raise InvalidInput(
                f"--cache-size {self.cache.size} holds fewer than 3 shards of {self.uri} (the largest has {largest} "
                f"bytes); give {3 * largest} bytes or more"
            )
        return int((self.cache.size - largest) // (2 * largest))
