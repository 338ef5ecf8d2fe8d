"""`manifest.json`: what a packed data set holds. Written last, so that a half-made set is never taken for a whole one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dfml import storage
from dfml.errors import InvalidInput

FORMAT_VERSION = 2
FILE_NAME = "manifest.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Model):
    """A file of the data set, by which every copy of it can be checked."""

    # Both become names of local files: neither may lead elsewhere.
    file: str = Field(pattern=r"^[^/\\]+$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Shard(File):
    """One Parquet file; all its rows belong to one split, so that training never downloads the test images."""

    split: str
    rows: int


class Split(_Model):
    """`index` says of each row what class it is of and where its bytes lie (`dfml.data.index`)."""

    rows: int
    classes: int
    index: File


class Dropped(_Model):
    """An image that was left out, because it can't be decoded."""

    path: str
    reason: str


class Manifest(_Model):
    """The table of contents of a packed data set.

    Attributes:
        dataset: its name.
        splits: by name.
        classes: `classes[label]` is the name of the class with that label; labels count from 0 over all splits together.
        shards: in the order of their rows.
        source: identifies what was packed: the same images and classes packed again have the same.
        dropped: images of the source that aren't here.
    """

    format_version: int = FORMAT_VERSION
    dataset: str
    splits: dict[str, Split]
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    source: str
    dropped: tuple[Dropped, ...] = ()

    def shards_of(self, split: str) -> list[Shard]:
        """The shards of a split, in the order of its rows.

        Raises:
            InvalidInput: there is no such split.
        """
        self.split(split)
        return [shard for shard in self.shards if shard.split == split]

    def split(self, name: str) -> Split:
        """Raises InvalidInput: there is no such split."""
        if name not in self.splits:
            raise InvalidInput(
                f"data set {self.dataset!r} has no split {name!r}; it has {', '.join(sorted(self.splits))}: name one of these"
            )
        return self.splits[name]


def read_manifest(place: str | Path) -> Manifest:
    """Read `<place>/manifest.json`, of a folder or an `s3://` URI.

    Raises:
        InvalidInput: there is none, it isn't a manifest, or it is of another format than this code reads.
    """
    path = storage.join(place, FILE_NAME)
    try:
        content = json.loads(_content(place))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            mend = "update the code" if version > FORMAT_VERSION else "pack the data set again"
            raise InvalidInput(f"{path} has format version {version}, this code reads {FORMAT_VERSION}: {mend}")
        return Manifest.model_validate(content)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"{path} is not a manifest that can be read ({reason}): pack the data set again") from error


def manifest_sha256(place: str | Path) -> str:
    """The SHA-256 of a manifest, which names all other files by theirs: it stands for the whole data set. Raises as `read_manifest`."""
    return hashlib.sha256(_content(place)).hexdigest()


def is_packed(place: str | Path) -> bool:
    """Whether there is a packed data set."""
    return storage.exists(storage.join(place, FILE_NAME))


def write_manifest(place: str, manifest: Manifest) -> None:
    """Write `<place>/manifest.json` in one step: readers see the whole of it or nothing."""
    storage.write(storage.join(place, FILE_NAME), (manifest.model_dump_json(indent=1) + "\n").encode())


def _content(place: str | Path) -> bytes:
    try:
        return storage.read(storage.join(place, FILE_NAME))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInput(
            f"{place} is not a packed data set: it has no {FILE_NAME}; name a place that `python -m dfml.data pack` finished"
        ) from error
