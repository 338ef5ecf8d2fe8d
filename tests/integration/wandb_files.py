"""Reader of offline runs of Weights & Biases: protobuf records in LevelDB's log format."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768  # bytes
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
FILE_HEADER = 7  # ":W&B", two bytes of magic, the version


def records_of(run: Path) -> Iterator[Any]:
    """Yield the protobuf records in a run's folder in the order of writing; verify checksums."""
    (file,) = run.glob("run-*.wandb")
    content = file.read_bytes()
    assert content.startswith(b":W&B")
    position, parts = FILE_HEADER, []
    while position + 7 <= len(content):
        # Without room for a header, zeros fill the rest of the block.
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        part = content[position + 7 : position + 7 + length]
        assert checksum == zlib.crc32(bytes([kind]) + part)
        position += 7 + length
        parts.append(part)
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


class OfflineRun:
    """An offline run, read from its folder.

    Attributes:
        id: the ID of the run.
        group: the group of the run.
        name: the name of the run.
        config: the configuration, by name.
        history: the logged values, one dictionary per step.
        summary: the summary, by name.
        artifacts: the names and types of the artifacts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: list[tuple[str, str]] = []
        for record in records_of(folder):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.group, self.name = record.run.run_id, record.run.run_group, record.run.display_name
                self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                self.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            elif kind == "summary":
                self.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                artifact = record.request.log_artifact.artifact
                self.artifacts.append((artifact.name, artifact.type))
            elif kind == "artifact":
                self.artifacts.append((record.artifact.name, record.artifact.type))


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def offline_runs(sweep: Path) -> list[OfflineRun]:
    """Return all offline runs in a sweep's folder, in the order in which they began."""
    return [OfflineRun(folder) for folder in sorted((sweep / "wandb").glob("offline-run-*"))]


def files_with(text: str, folder: Path) -> list[Path]:
    """Return the files below a folder that contain a text."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return [file for file in files if text.encode() in file.read_bytes()]
