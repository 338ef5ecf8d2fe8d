"""An image to pack: the item that readers return and packing reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Source(Protocol):
    """An image to pack: an `ImageSource` in a file, or an `ImageRow` in memory."""

    @property
    def class_name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image to pack.

    Attributes:
        file: the file with the encoded bytes (JPEG, PNG, WebP, …): the image itself, a tar or a
            shard.
        class_name: the name of its class.
        path: its name in the packed data set, relative to the data set's root.
        split: the split: "train", "test", "query" or "gallery".
        offset: the position of its bytes in `file`.
        size: the number of bytes.
    """

    file: Path
    class_name: str
    path: str
    split: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the encoded bytes.

        Raises:
            OSError: the file can't be read, or has become shorter.
        """
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            content = stream.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.file} ends after {self.offset + len(content)} bytes")
        return content
