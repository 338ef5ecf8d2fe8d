"""Reads a packed data set, to pack it again elsewhere: its images lie in its shards as they are."""

from __future__ import annotations

from pathlib import Path

from dfml.data.index import read_index
from dfml.data.manifest import read_manifest
from dfml.data.readers.checks import check_sources
from dfml.data.readers.files import existing
from dfml.data.source import ImageSource


def read_packed(root: Path) -> list[ImageSource]:
    """The images of the packed data set in the folder `root`, split by split.

    Raises:
        InvalidInput: it isn't one, or a file of it is missing.
    """
    manifest = read_manifest(root)
    sources = []
    for split, content in manifest.splits.items():
        rows = read_index(existing(root / content.index.file), manifest, split)
        files = [existing(root / shard.file) for shard in manifest.shards_of(split)]
        located = zip(rows.shards, rows.labels, rows.paths, rows.offsets.tolist(), rows.sizes.tolist(), strict=True)
        sources += [
            ImageSource(files[shard], manifest.classes[label], path, split, offset, size)
            for shard, label, path, offset, size in located
        ]
    return check_sources(sources, root)
