"""Files at a place that is a local folder or an S3 URI (`dfml.s3`)."""

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
    """`root` with further path parts, for folders and URIs alike."""
    return "/".join([str(root).rstrip("/"), *parts])


def absolute(root: str) -> str:
    """A URI as it is; a folder as an absolute path, so that it means the same in every process of this machine."""
    return root if "://" in root else str(Path(root).expanduser().resolve())


def exists(place: str) -> bool:
    """Whether there is such a file."""
    return s3.exists(place) if _on_s3(place) else Path(absolute(place)).is_file()


def read(place: str, offset: int = 0, size: int | None = None) -> bytes:
    """The content of a file, or `size` bytes of it from `offset`.

    Raises:
        FileNotFoundError: there is none.
    """
    if _on_s3(place):
        return s3.get(place, offset, size)
    with open(absolute(place), "rb") as stream:
        stream.seek(offset)
        return stream.read(-1 if size is None else size)


def write(place: str, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made."""
    if _on_s3(place):
        s3.put(place, content)
        return
    with writing(place) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def writing(place: str) -> Iterator[Path]:
    """A local file to fill, which becomes the one at a place where the block ends; where it raises, nothing is changed there."""
    with contextlib.ExitStack() as stack:
        if _on_s3(place):
            partial = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "partial"
        else:
            path = Path(absolute(place))
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            stack.callback(partial.unlink, missing_ok=True)
        yield partial
        if _on_s3(place):
            s3.upload(place, partial)
        else:
            partial.replace(path)


@contextlib.contextmanager
def local_file(place: str) -> Iterator[Path]:
    """A local file with the content of the one at a place: the file itself, or a temporary download.

    Raises:
        FileNotFoundError: there is none.
    """
    if not _on_s3(place):
        yield Path(absolute(place))
        return
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "download"
        with file.open("wb") as stream:
            s3.download(place, stream)
        yield file


def delete(place: str) -> None:
    """Remove a file, or do nothing where there is none."""
    if _on_s3(place):
        s3.delete(place)
    else:
        Path(absolute(place)).unlink(missing_ok=True)


def delete_empty(folder: str) -> None:
    """Remove a folder that nothing is left in; S3 has no folders."""
    if not _on_s3(folder):
        with contextlib.suppress(OSError):  # it isn't there, or not empty
            Path(absolute(folder)).rmdir()


def folders(place: str) -> list[str]:
    """Return the names of the folders in a folder or URI, sorted; none where it isn't there."""
    if _on_s3(place):
        return s3.folders(place)
    path = Path(absolute(place))
    return sorted(each.name for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def delete_folder(place: str) -> None:
    """Remove a folder with all that is in it."""
    if _on_s3(place):
        s3.delete_folder(place)
    else:
        shutil.rmtree(absolute(place))


def _on_s3(place: str) -> bool:
    if "://" in place and not place.startswith(s3.PREFIX):
        raise InvalidInput(f"{place!r} is of a kind of storage that isn't supported: give a folder or an s3:// URI")
    return place.startswith(s3.PREFIX)


def upload(directory: Path, place: str) -> None:
    """Write the files below a local directory to a place."""
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        write(join(place, *file.relative_to(directory).parts), file.read_bytes())


def check_writable(place: str) -> None:
    """Write and remove a small file; of a folder that isn't there yet, in the nearest above it that is.

    Raises:
        InvalidInput: that failed; says why.
    """
    where: str | Path = place
    if not _on_s3(place):
        where = Path(absolute(place))
        while not where.exists():
            where = where.parent
    probe = join(where, ".write-probe")
    try:
        write(probe, b"")
        delete(probe)
    except OSError as error:
        raise InvalidInput(
            f"storage {place} can't be written ({error}); give a folder or an s3:// URI that you may write to"
        ) from error


@contextlib.contextmanager
def local_copy(place: str | Path, files: Sequence[str]) -> Iterator[Path]:
    """A local directory with the named files of a place: the place itself, or a temporary download of it.

    Raises:
        InvalidInput: a file isn't there.
    """
    place = str(place)
    missing = [file for file in files if not exists(join(place, file))]
    if missing:
        raise InvalidInput(f"{place} has no {missing[0]}: name the best/ folder of a finished sweep")
    if "://" not in place:
        yield Path(absolute(place))
        return
    with tempfile.TemporaryDirectory() as directory:
        for file in files:
            (Path(directory) / file).write_bytes(read(join(place, file)))
        yield Path(directory)
