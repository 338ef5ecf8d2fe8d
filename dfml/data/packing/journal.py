"""The journal of a packing run: what exists at the URI until the manifest is written.

`packing/files.json` names all files that may exist, `packing/<shard>.json` records a shard.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from dfml import s3, storage
from dfml.data.format.manifest import FILE_NAME, Manifest, is_packed, read_manifest
from dfml.errors import InvalidInput

JOURNAL = "packing"
# In `JOURNAL`: the names of all shards and indices that may exist at the URI.
FILES = "files.json"


def begin(uri: str, planned: set[str]) -> None:
    """Record the files of this run, of killed ones and of a replaced set; delete the manifest.

    Args:
        uri: the folder or `s3://` URI to pack into.
        planned: the names of the shards and indices that this run may write.
    """
    files = _noted(uri) | planned
    if is_packed(uri):
        # The file names of a manifest in another format are unknown.
        with contextlib.suppress(InvalidInput):
            files |= _files(read_manifest(uri))
    storage.write(storage.join(uri, JOURNAL, FILES), json.dumps(sorted(files)).encode())
    storage.delete(storage.join(uri, FILE_NAME))


def tidy(uri: str, manifest: Manifest) -> None:
    """Remove the journals, and the files that `begin` recorded but the manifest doesn't name."""
    files = _noted(uri)
    if not files:
        return
    for file in files - _files(manifest):
        storage.delete(storage.join(uri, file))
    for file in files:
        storage.delete(record_of(uri, file))
    # `storage.write` leaves partial files if its process is killed; on S3 it leaves nothing.
    if not uri.startswith(s3.PREFIX):
        for folder in (Path(uri), Path(uri, JOURNAL)):
            for partial in folder.glob("*.partial"):
                if partial.name.rsplit(".", 2)[0].removesuffix(".json") in files:
                    partial.unlink(missing_ok=True)
    storage.delete(storage.join(uri, JOURNAL, FILES))
    storage.delete_empty(storage.join(uri, JOURNAL))


def _noted(uri: str) -> set[str]:
    try:
        return set(json.loads(storage.read(storage.join(uri, JOURNAL, FILES))))
    except (FileNotFoundError, ValueError):
        return set()


def _files(manifest: Manifest) -> set[str]:
    return {shard.file for shard in manifest.shards} | {split.index.file for split in manifest.splits.values()}


def record_of(uri: str, file: str) -> str:
    """Return the location of the record of a finished shard."""
    return storage.join(uri, JOURNAL, f"{file}.json")
