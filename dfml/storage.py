"""File operations on URIs: local folders, or `s3://` URIs (`dfml.s3`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dfml import s3
from dfml.errors import InvalidInput


def join(root: str | Path, *parts: str) -> str:
    """Return `root` (a folder or a URI) extended by path parts."""
    return "/".join([str(root).rstrip("/"), *parts])


def absolute(root: str) -> str:
    """Return a URI unchanged, and a folder as an absolute path, which is valid in every process."""
    return root if "://" in root else str(Path(root).expanduser().resolve())


def exists(uri: str) -> bool:
    """Return whether there is such a file."""
    return s3.exists(uri) if _on_s3(uri) else Path(absolute(uri)).is_file()


def read(uri: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return the content of a file, or `size` bytes of it from `offset`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if _on_s3(uri):
        return s3.get(uri, offset, size)
    with open(absolute(uri), "rb") as stream:
        stream.seek(offset)
        return stream.read(-1 if size is None else size)


def write(uri: str, content: bytes) -> None:
    """Write a file atomically; create its folder if necessary."""
    if _on_s3(uri):
        s3.put(uri, content)
        return
    with writing(uri) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def writing(uri: str) -> Iterator[Path]:
    """Yield a local path to write to; that file replaces `uri`, unless the block raises."""
    with contextlib.ExitStack() as stack:
        if _on_s3(uri):
            partial = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "partial"
        else:
            path = Path(absolute(uri))
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            stack.callback(partial.unlink, missing_ok=True)
        yield partial
        if _on_s3(uri):
            s3.upload(uri, partial)
        else:
            partial.replace(path)


@contextlib.contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """Yield the local path of a file: the file itself, or a temporary download from S3.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not _on_s3(uri):
        yield Path(absolute(uri))
        return
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "download"
        with file.open("wb") as stream:
            s3.download(uri, stream)
        yield file


def delete(uri: str) -> None:
    """Remove a file if it exists."""
    if _on_s3(uri):
        s3.delete(uri)
    else:
        Path(absolute(uri)).unlink(missing_ok=True)


def delete_empty(folder: str) -> None:
    """Remove a folder if it is empty; S3 has no folders."""
    if not _on_s3(folder):
        # Raised if the folder doesn't exist or isn't empty.
        with contextlib.suppress(OSError):
            Path(absolute(folder)).rmdir()


def folders(uri: str) -> list[str]:
    """Return the sorted names of the folders in a folder or URI; none if it doesn't exist."""
    if _on_s3(uri):
        return s3.folders(uri)
    path = Path(absolute(uri))
    return sorted(each.name for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def delete_folder(uri: str) -> None:
    """Remove a folder with all its contents."""
    if _on_s3(uri):
        s3.delete_folder(uri)
    else:
        shutil.rmtree(absolute(uri))


def _on_s3(uri: str) -> bool:
    if "://" in uri and not uri.startswith(s3.PREFIX):
        raise InvalidInput(f"{uri!r} is a kind of storage that isn't supported; give a folder or an s3:// URI")
    return uri.startswith(s3.PREFIX)


def upload(directory: Path, uri: str) -> None:
    """Write the files below a local directory to a folder or URI."""
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        write(join(uri, *file.relative_to(directory).parts), file.read_bytes())


def check_writable(uri: str) -> None:
    """Check that files can be written to a folder or URI.

    A folder that doesn't exist yet is checked at its nearest existing parent.

    Raises:
        InvalidInput: writing and removing a small file failed; the message states the reason.
    """
    where: str | Path = uri
    if not _on_s3(uri):
        where = Path(absolute(uri))
        while not where.exists():
            where = where.parent
    probe = join(where, ".write-probe")
    try:
        write(probe, b"")
        delete(probe)
    except OSError as error:
        raise InvalidInput(f"storage {uri} can't be written ({error}); give a writable folder or s3:// URI") from error


@contextlib.contextmanager
def local_copy(uri: str | Path, files: Sequence[str]) -> Iterator[Path]:
    """Yield a local directory with the named files: the folder itself, or a temporary download.

    Raises:
        InvalidInput: a file is missing.
    """
    uri = str(uri)
    missing = [file for file in files if not exists(join(uri, file))]
    if missing:
        raise InvalidInput(f"{uri} has no {missing[0]}; name the best/ folder of a finished sweep")
    if "://" not in uri:
        yield Path(absolute(uri))
        return
    with tempfile.TemporaryDirectory() as directory:
        for file in files:
            (Path(directory) / file).write_bytes(read(join(uri, file)))
        yield Path(directory)
