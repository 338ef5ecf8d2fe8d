"""The node's cache: a folder in which all workers on a machine keep the files they fetch from S3.

Each file is fetched once, by the first process that needs it: under a lock of the operating system,
which a killed process can't leave behind, and under a temporary name, so that a file with its final
name is complete. That name is its SHA-256, so data sets share equal files. A size limit is kept by
removing the least recently used files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal

from dfml import s3
from dfml.data.format.manifest import File
from dfml.errors import InvalidInput, RunFailed

# Downloads of a file whose content differs from the manifest's SHA-256.
TRIES = 2
# Resolution of the LRU clock.
TOUCH_SECONDS = 10.0
# Interval between two checks for room.
ROOM_POLL_SECONDS = 0.05
# The cache's own files; a user's files in the same folder aren't touched.
OURS = re.compile(r"[0-9a-f]{64}\.(?!lock$).+")
CACHE_VARIABLE = "DFML_CACHE"


def default_folder() -> Path:
    """Return the default cache folder: `DFML_CACHE`, or a folder in the user's home."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "dfml")


@dataclass
class Cache:
    """A folder of fetched files.

    Args:
        folder: the folder on a local disk; created if missing.
        size: the most bytes to keep; None: as many as the disk holds.
    """

    folder: Path = field(default_factory=default_folder)
    size: int | None = None
    _touched: dict[str, float] = field(default_factory=dict, repr=False)

    def path(self, file: File, uri: str) -> Path:
        """Return the local copy of a file; fetch it, or wait for the process that is fetching it.

        Args:
            file: the file's entry in the manifest.
            uri: the file's `s3://` URI.

        Raises:
            InvalidInput: the file doesn't exist, is damaged, or doesn't fit into the cache.
        """
        found = self.find(file)
        while found is None:
            with self.lock(file.sha256):
                found = self.find(file) or self._fetch(file, uri)
        return found

    def find(self, file: File) -> Path | None:
        """Return the local copy of a file, or None."""
        path = self.local(file)
        if not path.exists():
            return None
        self.touch(file)
        return path

    def touch(self, file: File) -> None:
        """Mark a file as recently used."""
        now = time.monotonic()
        if now - self._touched.get(file.sha256, -TOUCH_SECONDS) >= TOUCH_SECONDS:
            # The file may have been evicted; the next reader fetches it again.
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.local(file))
                self._touched[file.sha256] = now

    def fetch_unless_others_do(self, file: File, uri: str) -> None:
        """Fetch a file unless it is cached or another process is fetching it."""
        if self.find(file) is None:
            with self.lock(file.sha256, wait=False) as locked:
                if locked and self.find(file) is None:
                    self._fetch(file, uri)

    def discard(self, file: File) -> None:
        """Remove the damaged local copy of a file."""
        self.local(file).unlink(missing_ok=True)

    def require_room(self, files: list[File]) -> None:
        """Check, before any work, that the disk has room for all these files.

        Raises:
            InvalidInput: it doesn't.
        """
        self._make_folder()
        self._remove_abandoned()
        if self.size is not None:
            return
        # Measured before the missing bytes: files that others fetch meanwhile must not count twice.
        free = shutil.disk_usage(self.folder).free
        missing = sum(self._missing(file) for file in files)
        if missing > free:
            raise InvalidInput(
                f"the cache {self.folder} would need {decimal(missing)} more, its disk has {decimal(free)} left; "
                "make room, name a larger disk with --cache-dir, or keep only a part of the data set with --cache-size"
            )

    def _missing(self, file: File) -> int:
        """Return the number of bytes of a file that aren't on the disk yet."""
        with contextlib.suppress(FileNotFoundError):
            return max(0, file.bytes - 512 * self._partial(file).stat().st_blocks)
        return 0 if self.local(file).exists() else file.bytes

    def local(self, file: File) -> Path:
        """Return the path of a file's local copy, whether it exists or not."""
        return self.folder / f"{file.sha256}{Path(file.file).suffix}"

    def _partial(self, file: File) -> Path:
        """Return the path to which a file is being fetched."""
        path = self.local(file)
        return path.with_name(path.name + ".partial")

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"the cache {self.folder} can't be created ({error}); name another with --cache-dir"
            ) from error

    @contextlib.contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the named lock, until the process ends at the latest; yield whether it is held."""
        self._make_folder()
        try:
            file = (self.folder / f"{name}.lock").open("ab")
        except PermissionError as error:
            raise InvalidInput(
                f"the cache {self.folder} can't be written ({error}); name another with --cache-dir"
            ) from error
        with file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                # Closing isn't enough: a process forked in the meantime holds the file open, too.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _fetch(self, file: File, uri: str) -> Path:
        """Fetch a file whose lock is held."""
        path, partial = self.local(file), self._partial(file)
        digest = ""
        try:
            self._reserve(file)
            for _ in range(TRIES):
                with partial.open("r+b") as stream:
                    digest = s3.download(uri, stream)
                if digest == file.sha256:
                    # An evicting process that adds up sizes must not miss the file while it moves.
                    with self.lock("evict"):
                        partial.rename(path)
                    self._touched[file.sha256] = time.monotonic()
                    return path
        except FileNotFoundError as error:
            raise InvalidInput(f"{uri} of the manifest is missing; copy or pack the data set again") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunFailed(
                f"the cache {self.folder} is full ({file.bytes} bytes of {uri} don't fit on its disk); "
                "make room, name a larger disk with --cache-dir, or keep only a part of the data set with --cache-size"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        raise InvalidInput(
            f"shard {uri} is damaged: its SHA-256 is {digest}, not the manifest's {file.sha256}, "
            "and fetching it again didn't help; copy or pack it again"
        )

    def _reserve(self, file: File) -> None:
        """Make room for a file whose lock is held, and reserve it by a partial file of its size."""
        partial = self._partial(file)
        # A killed process may have left one.
        partial.unlink(missing_ok=True)
        if self.size is not None and file.bytes > self.size:
            raise InvalidInput(f"--cache-size {self.size} can't hold {file.file} of {file.bytes} bytes; make it larger")
        while True:
            with self.lock("evict"):
                if self._make_room(file.bytes):
                    with partial.open("wb") as stream:
                        stream.truncate(file.bytes)
                    return
            # Running transfers take all the room; their files can be evicted when they end.
            time.sleep(ROOM_POLL_SECONDS)

    def _make_room(self, needed: int) -> bool:
        """Evict least recently used files until `needed` more bytes fit; return whether they do."""
        if self.size is None:
            return True
        self._remove_abandoned()
        kept = []
        for path in self._files():
            # A file may be renamed or discarded meanwhile.
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                kept.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total + needed > self.size and path.suffix != ".partial":
                path.unlink(missing_ok=True)
                total -= size
        return total + needed <= self.size

    def _remove_abandoned(self) -> None:
        """Remove the partial files of killed processes: those whose lock nobody holds."""
        for path in self._files():
            if path.suffix == ".partial":
                with self.lock(path.name.partition(".")[0], wait=False) as locked:
                    if locked:
                        path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if OURS.fullmatch(path.name)]
