"""The file of embeddings: Parquet, a row an image, that pandas, DuckDB and the like read as it is.

Columns: `path` (from the images' root) and `embedding` (D numbers, L2-normalised). What made it stands in the schema's metadata,
each of `Facts` under its name with "dfml." before it.
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
from dfml.errors import InvalidInput

FORMAT_VERSION = 1
PREFIX = "dfml."
ROWS = 8192  # of a row group, written and read at once: 12 MB at width 384


class Facts(BaseModel):
    """What made an index."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    format_version: Literal[1] = 1
    images: str  # their root, as an absolute path
    model: str  # its place
    model_sha256: str  # of its model.safetensors
    inference: Literal["full", "routed"]


@dataclass(frozen=True)
class Index:
    """An index that is open for reading."""

    place: str
    facts: Facts
    rows: int
    _file: pq.ParquetFile

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Paths and embeddings (n, D), some thousand rows at a time, in their order.

        Raises:
            InvalidInput: the file is damaged.
        """
        try:
            for batch in self._file.iter_batches(ROWS):
                embeddings = batch.column("embedding")
                flat = embeddings.flatten().to_numpy(zero_copy_only=False)
                yield (
                    batch.column("path").to_pylist(),
                    flat.reshape(len(embeddings), -1).copy(),
                )  # Arrow's own is read-only
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.place, error) from error


def write_index(place: str, facts: Facts, width: int, batches: Iterable[tuple[list[str], np.ndarray]]) -> int:
    """Write an index whole or not at all; returns its number of rows.

    Args:
        place: a file or an `s3://` URI.
        facts: what made it.
        width: of an embedding, D.
        batches: paths and embeddings (n, D), float32.

    Raises:
        InvalidInput: there are no rows.
    """
    metadata = {PREFIX + name: str(value) for name, value in facts.model_dump().items()}
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), width))], metadata)
    rows = 0
    with storage.writing(place) as partial:
        # Numbers like these don't repeat, and hardly compress.
        with pq.ParquetWriter(
            partial, schema, use_dictionary=False, compression="none", write_page_checksum=True
        ) as writer:
            for paths, embeddings in _in_groups(batches):
                column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), width)
                writer.write_table(pa.table([pa.array(paths, pa.string()), column], schema=schema))
                rows += len(paths)
        if not rows:
            raise InvalidInput(
                f"none of the images can be decoded, so there is nothing to write to {place}: give some that can"
            )
    return rows


def _in_groups(batches: Iterable[tuple[list[str], np.ndarray]]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Batches put together to row groups: a reader opens each, so there shouldn't be one for every few images."""
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
def open_index(place: str) -> Iterator[Index]:
    """Open an index; one on S3 is fetched to a temporary file.

    Raises:
        InvalidInput: there is none, it is damaged, or was not written by `write_index`.
    """
    with ExitStack() as stack:
        try:
            index = _opened(place, stack.enter_context(storage.local_file(place)))
        except FileNotFoundError as error:
            raise InvalidInput(f"--index {place} doesn't exist: make it with python -m dfml.embed") from error
        yield index


def _opened(place: str, local: Path) -> Index:
    if local.is_dir():
        raise InvalidInput(f"--index {place} is a folder: name the file that python -m dfml.embed wrote")
    try:
        file = pq.ParquetFile(local, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(place, error) from error
    schema = file.schema_arrow
    return Index(place, _facts(place, schema.metadata or {}), file.metadata.num_rows, file)


def _facts(place: str, metadata: Mapping[bytes, bytes]) -> Facts:
    named = {
        key.decode().removeprefix(PREFIX): value.decode()
        for key, value in metadata.items()
        if key.startswith(PREFIX.encode())
    }
    version = named.get("format_version")
    if version is not None and version != str(FORMAT_VERSION):
        raise InvalidInput(
            f"--index {place} is of format {version}, this code reads format {FORMAT_VERSION}: make it again with python -m dfml.embed"
        )
    try:
        return Facts.model_validate({**named, "format_version": FORMAT_VERSION})
    except ValidationError as error:
        raise InvalidInput(
            f"--index {place} doesn't say which model made it: name a file that python -m dfml.embed wrote, not a copy by another program"
        ) from error


def _damaged(place: str, error: Exception) -> InvalidInput:
    reason = " ".join(str(error).split())[:200]
    return InvalidInput(
        f"--index {place} can't be read as Parquet ({reason}): copy it again, or make it again with python -m dfml.embed"
    )
