"""The file of embeddings: Parquet with one row per image, which pandas and DuckDB read directly.

Columns: `path` (relative to the images' root) and `embedding` (D numbers, L2-normalized). The
schema's metadata holds each field of `Facts` under its name with the prefix "dfml.".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from dfml import storage
from dfml.errors import InvalidInput, one_line

FORMAT_VERSION = 1
METADATA_PREFIX = "dfml."
# Rows per row group, which is written and read at once: 12 MB at width 384.
ROWS = 8192


class Facts(BaseModel):
    """The origin of an index.

    Attributes:
        format_version: the version of the file's format.
        images: the images' root, an absolute path.
        model: the model's folder or URI.
        model_sha256: the SHA-256 of its model.safetensors.
        inference: the model's path.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    format_version: Literal[1] = 1
    images: str
    model: str
    model_sha256: str
    inference: Literal["full", "routed"]


@dataclass(frozen=True)
class Index:
    """An index open for reading."""

    uri: str
    facts: Facts
    rows: int
    _file: pq.ParquetFile

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield paths and embeddings (n, D) in order, a few thousand rows at a time.

        Raises:
            InvalidInput: the file is damaged.
        """
        try:
            for batch in self._file.iter_batches(ROWS):
                embeddings = batch.column("embedding")
                flat = embeddings.flatten().to_numpy(zero_copy_only=False)
                # A copy, because Arrow's own array is read-only.
                yield batch.column("path").to_pylist(), flat.reshape(len(embeddings), -1).copy()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.uri, error) from error


def write_index(uri: str, facts: Facts, width: int, batches: Iterable[tuple[list[str], np.ndarray]]) -> int:
    """Write an index atomically and return its number of rows.

    Args:
        uri: the file's path or `s3://` URI.
        facts: the origin of the index.
        width: the numbers per embedding, D.
        batches: the paths and embeddings (n, D), float32.

    Raises:
        InvalidInput: there are no rows.
    """
    metadata = {METADATA_PREFIX + name: str(value) for name, value in facts.model_dump().items()}
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), width))], metadata)
    rows = 0
    with storage.writing(uri) as partial:
        # Embeddings hardly compress.
        with pq.ParquetWriter(
            partial, schema, use_dictionary=False, compression="none", write_page_checksum=True
        ) as writer:
            for paths, embeddings in _in_groups(batches):
                column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), width)
                writer.write_table(pa.table([pa.array(paths, pa.string()), column], schema=schema))
                rows += len(paths)
        if not rows:
            raise InvalidInput(
                f"none of the images can be decoded, so there is nothing to write to {uri}; give some that can"
            )
    return rows


def _in_groups(batches: Iterable[tuple[list[str], np.ndarray]]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Combine batches into row groups of at least `ROWS` rows: many small ones are slow to read."""
    paths: list[str] = []
    parts: list[np.ndarray] = []
    for names, embeddings in batches:
        paths += names
        parts.append(embeddings)
        if len(paths) >= ROWS:
            yield paths, np.concatenate(parts)
            paths, parts = [], []
    if paths:
        yield paths, np.concatenate(parts)


@contextmanager
def open_index(uri: str) -> Iterator[Index]:
    """Open an index; fetch it to a temporary file if it is on S3.

    Raises:
        InvalidInput: the file is missing or damaged, or wasn't written by `write_index`.
    """
    with ExitStack() as stack:
        try:
            index = _opened(uri, stack.enter_context(storage.local_file(uri)))
        except FileNotFoundError as error:
            raise InvalidInput(f"--index {uri} doesn't exist; make it with python -m dfml.embed") from error
        yield index


def _opened(uri: str, local: Path) -> Index:
    if local.is_dir():
        raise InvalidInput(f"--index {uri} is a folder; name the file that python -m dfml.embed wrote")
    try:
        file = pq.ParquetFile(local, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(uri, error) from error
    schema = file.schema_arrow
    return Index(uri, _facts(uri, schema.metadata or {}), file.metadata.num_rows, file)


def _facts(uri: str, metadata: Mapping[bytes, bytes]) -> Facts:
    named = {
        key.decode().removeprefix(METADATA_PREFIX): value.decode()
        for key, value in metadata.items()
        if key.startswith(METADATA_PREFIX.encode())
    }
    version = named.get("format_version")
    if version is not None and version != str(FORMAT_VERSION):
        raise InvalidInput(
            f"--index {uri} has format {version}; this code reads format {FORMAT_VERSION}; make it again with "
            "python -m dfml.embed"
        )
    try:
        return Facts.model_validate({**named, "format_version": FORMAT_VERSION})
    except ValidationError as error:
        raise InvalidInput(
            f"--index {uri} doesn't record which model made it; name a file that python -m dfml.embed wrote, not a "
            "copy by another program"
        ) from error


def _damaged(uri: str, error: Exception) -> InvalidInput:
    reason = one_line(error)
    return InvalidInput(
        f"--index {uri} can't be read as Parquet ({reason}); copy it again, or make it again with python -m dfml.embed"
    )
