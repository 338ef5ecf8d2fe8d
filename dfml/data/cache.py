"""The node's cache: one folder in which all workers of all trials on a machine keep what they fetch from S3.

Each file is fetched once, by whoever needs it first: under a lock of the operating system, which a killed process can't leave
behind; to a temporary name, so that what has its name is whole; checked by SHA-256, which is its name, so that equal files of
several data sets are one. Under a size limit those that weren't used longest are removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dfml import s3
from dfml.data.manifest import File
from dfml.errors import InvalidInput

TRIES = 2  # of a file whose content isn't what the manifest says
TOUCH_EVERY = 10.0  # seconds: how exact "not used longest" is
ENVIRONMENT = "DFML_CACHE"


def default_folder() -> Path:
    """Where files are kept unless a command says otherwise: DFML_CACHE, or a folder of the user's own."""
    return Path(os.environ.get(ENVIRONMENT) or Path.home() / ".cache" / "dfml")


@dataclass
class Cache:
    """A folder of fetched files.

    Args:
        folder: made when missing; on a local disk.
        size: bytes to keep at most; None for as many as the disk holds.
    """

    folder: Path = field(default_factory=default_folder)
    size: int | None = None
    _touched: dict[str, float] = field(default_factory=dict, repr=False)

    def path(self, file: File, place: str) -> Path:
        """The local copy of a file, fetched where it isn't here; waits where another process is fetching it.

        Args:
            file: what the manifest says of it.
            place: where it is fetched from, an `s3://` URI.

        Raises:
            InvalidInput: it isn't there, is damaged, or finds no room.
        """
        found = self.find(file)
        while found is None:
            with self._lock(file.sha256):
                found = self.find(file) or self._fetch(file, place)
        return found

    def find(self, file: File) -> Path | None:
        """The local copy of a file, where there is one."""
        path = self._path(file)
        now = time.monotonic()
        if now - self._touched.get(file.sha256, -TOUCH_EVERY) >= TOUCH_EVERY:
            try:
                os.utime(path)  # the eviction's clock
            except FileNotFoundError:
                return None
            self._touched[file.sha256] = now
            return path
        return path if path.exists() else None

    def fetch_unless_others_do(self, file: File, place: str) -> None:
        """Fetch a file, unless it is here or another process is fetching it."""
        if self.find(file) is None:
            with self._lock(file.sha256, wait=False) as locked:
                if locked and self.find(file) is None:
                    self._fetch(file, place)

    def discard(self, file: File) -> None:
        """Remove the local copy of a file: it isn't what it was."""
        self._path(file).unlink(missing_ok=True)

    def require_room(self, files: list[File]) -> None:
        """See, before any work, that all these files find room.

        Raises:
            InvalidInput: they don't.
        """
        if self.size is not None:
            return
        missing = sum(file.bytes for file in files if not self._path(file).exists())
        self._make_folder()
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise InvalidInput(
                f"the cache {self.folder} would need {_megabytes(missing)} more, its disk has {_megabytes(free)} left: make room, name "
                "a larger disk with --cache-dir, or keep a part of the data set only with --cache-size"
            )

    def _path(self, file: File) -> Path:
        return self.folder / f"{file.sha256}{Path(file.file).suffix}"

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"the cache {self.folder} can't be made ({error}): name another with --cache-dir"
            ) from error

    @contextlib.contextmanager
    def _lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of that name; yields whether it could be had. It ends with the process at the latest."""
        self._make_folder()
        with _open(self.folder / f"{name}.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def _fetch(self, file: File, place: str) -> Path:
        """Fetch a file, its lock held."""
        path = self._path(file)
        partial = path.with_name(path.name + ".partial")
        digest = ""
        try:
            for _ in range(TRIES):
                self._make_room(file.bytes)
                with partial.open("wb") as stream:
                    digest = s3.download(place, stream)
                if digest == file.sha256:
                    partial.rename(path)
                    self._touched[file.sha256] = time.monotonic()
                    return path
        except FileNotFoundError as error:
            raise InvalidInput(f"{place} of the manifest is missing: copy or pack the data set again") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InvalidInput(
                f"the cache {self.folder} is full ({file.bytes} bytes of {place} find no room on its disk): make room, name a larger "
                "disk with --cache-dir, or keep a part of the data set only with --cache-size"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        raise InvalidInput(
            f"shard {place} is damaged: its SHA-256 is {digest}, the manifest says {file.sha256}, and fetching it again didn't help; "
            "copy or pack it again"
        )

    def _make_room(self, needed: int) -> None:
        """Remove what wasn't used longest, until `needed` more bytes keep the size limit."""
        if self.size is None:
            return
        with self._lock("evict"):
            kept = []
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another process removed it just now
                    if path.suffix != ".lock":
                        status = path.stat()
                        kept.append((status.st_mtime, status.st_size, path))
            total = sum(size for _, size, _ in kept)
            for _, size, path in sorted(kept):
                if total + needed <= self.size:
                    return
                if path.suffix != ".partial":  # that one is being fetched
                    path.unlink(missing_ok=True)
                    total -= size


def _open(path: Path) -> BinaryIO:
    return open(path, "ab")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
