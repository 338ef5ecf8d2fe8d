"""`manifest.json`: what a packed data set holds. Written last, so that a half-made set is never taken for a whole one."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dfml.errors import InvalidInput

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


class Shard(BaseModel):
    """One Parquet file; all its rows belong to one split, so that training never downloads the test images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    split: str
    rows: int
    bytes: int
    sha256: str


class Split(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    classes: int


class Manifest(BaseModel):
    """The table of contents of a packed data set.

    `classes[label]` is the name of the class with that label; labels count from 0 over all splits together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    dataset: str
    splits: dict[str, Split]
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]

    def shards_of(self, split: str) -> list[Shard]:
        if split not in self.splits:
            raise InvalidInput(
                f"data set {self.dataset!r} has no split {split!r}; it has {', '.join(sorted(self.splits))}: name one of these"
            )
        return [shard for shard in self.shards if shard.split == split]


def read_manifest(root: Path) -> Manifest:
    """Read `<root>/manifest.json`.

    Raises:
        InvalidInput: there is none, it isn't a manifest, or it is of a newer format than this code reads.
    """
    path = root / FILE_NAME
    if not path.is_file():
        raise InvalidInput(
            f"{root} is not a packed data set: it has no {FILE_NAME}; name a folder that `dfml.data.shards.pack` finished"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version > FORMAT_VERSION:
            raise InvalidInput(
                f"{path} has format version {version}, this code reads up to {FORMAT_VERSION}: update the code or pack the data set again"
            )
        return Manifest.model_validate(content)
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not a manifest that can be read ({error}): pack the data set again") from error


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write `<root>/manifest.json` in one step: readers see the whole of it or nothing."""
    partial = root / (FILE_NAME + ".partial")
    partial.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.rename(root / FILE_NAME)
