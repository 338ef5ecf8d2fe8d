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
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dfml import s3
from dfml.data.manifest import File
from dfml.errors import InvalidInput

TRIES = 2  # of a file whose content isn't what the manifest says
TOUCH_EVERY = 10.0  # seconds: how exact "not used longest" is
ROOM_EVERY = 0.05  # seconds between two looks for room
OURS = re.compile(r"[0-9a-f]{64}\.(?!lock$).+")  # files of the cache; a user's own in the same folder aren't touched
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
        path = self.local(file)
        if not path.exists():
            return None
        self.touch(file)
        return path

    def touch(self, file: File) -> None:
        """Say that a file is in use: the eviction's clock."""
        now = time.monotonic()
        if now - self._touched.get(file.sha256, -TOUCH_EVERY) >= TOUCH_EVERY:
            with contextlib.suppress(FileNotFoundError):  # evicted: whoever opens it will see
                os.utime(self.local(file))
                self._touched[file.sha256] = now

    def fetch_unless_others_do(self, file: File, place: str) -> None:
        """Fetch a file, unless it is here or another process is fetching it."""
        if self.find(file) is None:
            with self._lock(file.sha256, wait=False) as locked:
                if locked and self.find(file) is None:
                    self._fetch(file, place)

    def discard(self, file: File) -> None:
        """Remove the local copy of a file: it isn't what it was."""
        self.local(file).unlink(missing_ok=True)

    def require_room(self, files: list[File]) -> None:
        """See, before any work, that all these files find room.

        Raises:
            InvalidInput: they don't.
        """
        self._make_folder()
        self._remove_abandoned()
        if self.size is not None:
            return
        free = shutil.disk_usage(self.folder).free  # first: what others fetch from now on mustn't count against us
        missing = sum(self._missing(file) for file in files)
        if missing > free:
            raise InvalidInput(
                f"the cache {self.folder} would need {_megabytes(missing)} more, its disk has {_megabytes(free)} left: make room, name "
                "a larger disk with --cache-dir, or keep a part of the data set only with --cache-size"
            )

    def _missing(self, file: File) -> int:
        """Bytes of a file that aren't on the disk yet."""
        with contextlib.suppress(FileNotFoundError):
            return max(0, file.bytes - 512 * self._partial(file).stat().st_blocks)
        return 0 if self.local(file).exists() else file.bytes

    def local(self, file: File) -> Path:
        """Where the local copy of a file is, once it is here."""
        return self.folder / f"{file.sha256}{Path(file.file).suffix}"

    def _partial(self, file: File) -> Path:
        """What is being fetched."""
        path = self.local(file)
        return path.with_name(path.name + ".partial")

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
        try:
            file = (self.folder / f"{name}.lock").open("ab")
        except PermissionError as error:
            raise InvalidInput(
                f"the cache {self.folder} can't be written ({error}): name another with --cache-dir"
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
                # Closing isn't enough: a process that was forked meanwhile has the file open too.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _fetch(self, file: File, place: str) -> Path:
        """Fetch a file, its lock held."""
        path, partial = self.local(file), self._partial(file)
        digest = ""
        try:
            self._reserve(file)
            for _ in range(TRIES):
                with partial.open("r+b") as stream:
                    digest = s3.download(place, stream)
                if digest == file.sha256:
                    with self._lock("evict"):  # whoever counts what is kept must not miss it between its two names
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

    def _reserve(self, file: File) -> None:
        """Make room for a file, its lock held, and take it: the partial file has its size from the beginning."""
        partial = self._partial(file)
        partial.unlink(missing_ok=True)  # of a killed process
        if self.size is not None and file.bytes > self.size:
            raise InvalidInput(f"--cache-size {self.size} can't hold {file.file} of {file.bytes} bytes: make it larger")
        while True:
            with self._lock("evict"):
                if self._make_room(file.bytes):
                    with partial.open("wb") as stream:
                        stream.truncate(file.bytes)
                    return
            time.sleep(ROOM_EVERY)  # others' transfers take all the room: as they end, their files can go

    def _make_room(self, needed: int) -> bool:
        """Remove what wasn't used longest, until `needed` more bytes keep the size limit; says whether they do."""
        if self.size is None:
            return True
        self._remove_abandoned()
        kept = []
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):  # its transfer ended, or it was discarded
                status = path.stat()
                kept.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total + needed > self.size and path.suffix != ".partial":
                path.unlink(missing_ok=True)
                total -= size
        return total + needed <= self.size

    def _remove_abandoned(self) -> None:
        """Remove what killed processes were fetching: nobody holds its lock."""
        for path in self._files():
            if path.suffix == ".partial":
                with self._lock(path.name.partition(".")[0], wait=False) as locked:
                    if locked:
                        path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if OURS.fullmatch(path.name)]


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
