"""Files at a place that is a local folder or an S3 URI, through pyarrow's file systems.

S3 takes credentials, region and endpoint from the usual AWS_* variables (AWS_ENDPOINT_URL for other S3-compatible servers).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyarrow import fs

from dfml.errors import InvalidInput


def join(root: str, *parts: str) -> str:
    """`root` with further path parts, for folders and URIs alike."""
    return "/".join([root.rstrip("/") or "/", *parts])


def absolute(root: str) -> str:
    """A URI as it is; a folder as an absolute path, so that it means the same in every process of this machine."""
    return root if "://" in root else str(Path(root).expanduser().resolve())


def _open(place: str) -> tuple[fs.FileSystem, str]:
    if place.startswith("s3://"):
        file_system, path = fs.FileSystem.from_uri(place)
        return file_system, path
    if "://" in place:
        raise InvalidInput(f"{place!r} is of a kind of storage that isn't supported: give a folder or an s3:// URI")
    return fs.LocalFileSystem(), absolute(place)


def exists(place: str) -> bool:
    file_system, path = _open(place)
    found: bool = file_system.get_file_info(path).type != fs.FileType.NotFound
    return found


def read(place: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    file_system, path = _open(place)
    with file_system.open_input_stream(path) as stream:
        content: bytes = stream.read()
        return content


def write(place: str, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made."""
    file_system, path = _open(place)
    if isinstance(file_system, fs.LocalFileSystem):
        file_system.create_dir(str(Path(path).parent))
        with file_system.open_output_stream(path + ".partial") as stream:
            stream.write(content)
        file_system.move(path + ".partial", path)
    else:  # an S3 object appears when its upload is complete
        with file_system.open_output_stream(path) as stream:
            stream.write(content)


def upload(directory: Path, place: str) -> None:
    """Write the files below a local directory to a place."""
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        write(join(place, *file.relative_to(directory).parts), file.read_bytes())


def check_writable(place: str) -> None:
    """Write and remove a small file.

    Raises:
        InvalidInput: that failed; says why.
    """
    probe = join(place, ".write-probe")
    try:
        write(probe, b"")
        file_system, path = _open(probe)
        file_system.delete_file(path)
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
