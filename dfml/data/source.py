"""Where an image lies before it is packed: what readers give and packing takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image to pack.

    Attributes:
        file: holds the encoded bytes (JPEG, PNG, WebP, …), alone or, in a tar file, among others.
        class_name: what it shows.
        path: its name in the packed data set, below the data set's root.
        split: "train", "test", "query" or "gallery".
        offset: where its bytes begin in `file`.
        size: how many they are.
    """

    file: Path
    class_name: str
    path: str
    split: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            OSError: the file can't be read, or is shorter than it was.
        """
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            content = stream.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.file} ends after {self.offset + len(content)} bytes")
        return content
