"""`manifest.json`: the contents of a packed data set. Written last, so it marks a complete set."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import Field, ValidationError

from dfml import storage
from dfml.errors import InvalidInput, one_line
from dfml.strict_model import StrictModel

FORMAT_VERSION = 2
FILE_NAME = "manifest.json"


class File(StrictModel):
    """A file of the data set, with the size and hash that each copy must have."""

    # `file` and `sha256` become names of local files, so neither may lead to another folder.
    file: str = Field(pattern=r"^[^/\\]+$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Shard(File):
    """A Parquet file with rows of one split, so that training never downloads test images."""

    split: str
    rows: int


class Split(StrictModel):
    """A split: its size, and the index with each row's class and position (`format.index`)."""

    rows: int
    classes: int
    index: File


class Dropped(StrictModel):
    """An image that was left out because it can't be decoded."""

    path: str
    reason: str


class Manifest(StrictModel):
    """The table of contents of a packed data set.

    Attributes:
        format_version: the version of the format.
        dataset: the data set's name.
        splits: the splits by name.
        classes: the classes' names by label; labels count from 0 over all splits together.
        shards: the shards in the order of their rows.
        source: a digest of the packed images and classes; packing the same again gives the same
            digest.
        dropped: the images of the source that were left out.
    """

    format_version: int = FORMAT_VERSION
    dataset: str
    splits: dict[str, Split]
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    source: str
    dropped: tuple[Dropped, ...] = ()

    def shards_of(self, split: str) -> list[Shard]:
        """Return the shards of a split, in the order of its rows.

        Raises:
            InvalidInput: there is no such split.
        """
        self.split(split)
        return [shard for shard in self.shards if shard.split == split]

    def split(self, name: str) -> Split:
        """Return the split of that name.

        Raises:
            InvalidInput: there is no such split.
        """
        if name not in self.splits:
            raise InvalidInput(
                f"data set {self.dataset!r} has no split {name!r}; it has {', '.join(sorted(self.splits))}; "
                "name one of these"
            )
        return self.splits[name]


def read_manifest(uri: str | Path) -> Manifest:
    """Read `<uri>/manifest.json` of a folder or an `s3://` URI.

    Raises:
        InvalidInput: there is no such file, it isn't a manifest, or it has another format version.
    """
    path = storage.join(uri, FILE_NAME)
    try:
        content = json.loads(_content(uri))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            advice = "update the code" if version > FORMAT_VERSION else "pack the data set again"
            raise InvalidInput(f"{path} has format version {version}; this code reads {FORMAT_VERSION}; {advice}")
        return Manifest.model_validate(content)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise InvalidInput(f"{path} is not a valid manifest ({reason}); pack the data set again") from error


def manifest_sha256(uri: str | Path) -> str:
    """Return the SHA-256 of a manifest; it identifies the data set, whose files' hashes are in it.

    Raises:
        InvalidInput: there is no manifest.
    """
    return hashlib.sha256(_content(uri)).hexdigest()


def is_packed(uri: str | Path) -> bool:
    """Return whether there is a packed data set."""
    return storage.exists(storage.join(uri, FILE_NAME))


def write_manifest(uri: str, manifest: Manifest) -> None:
    """Write `<uri>/manifest.json` atomically."""
    storage.write(storage.join(uri, FILE_NAME), (manifest.model_dump_json(indent=1) + "\n").encode())


def _content(uri: str | Path) -> bytes:
    try:
        return storage.read(storage.join(uri, FILE_NAME))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInput(
            f"{uri} is not a packed data set: it has no {FILE_NAME}; give a folder or URI that "
            "`python -m dfml.data pack` has finished"
        ) from error
