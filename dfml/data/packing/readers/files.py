"""Helpers that find the files of a data set without reading them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from PIL import Image

from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput


def existing(path: Path) -> Path:
    """Return the path itself after checking that it exists.

    Raises:
        InvalidInput: it doesn't exist.
    """
    if not path.exists():
        raise InvalidInput(f"{path} doesn't exist; put the data set there as it is published, or give another root")
    return path


def files_of_class(folder: Path) -> list[str]:
    """Return the sorted names of the files in a class folder, without hidden ones (".DS_Store").

    Raises:
        InvalidInput: there are none.
    """
    with os.scandir(folder) as entries:
        # Dangling links are listed, too, so that `file_source` reports them.
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    if not names:
        raise InvalidInput(f"class folder {folder} holds no images; put them there as they are published, or remove it")
    return names


def image_files(folder: Path) -> list[Path]:
    """Return the files below a folder that have an image format's extension, sorted.

    Hidden files are skipped, and links to folders aren't followed.
    """
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in endings and not path.name.startswith(".")
    )


def file_source(file: Path, path: str, class_name: str, split: str, source: str) -> ImageSource:
    """Return an image that is a file of its own; read the file's size but not its content.

    Args:
        file: the file.
        path: the image's name in the packed data set.
        class_name: the image's class.
        split: the image's split.
        source: the line or folder that names the file, for messages.

    Raises:
        InvalidInput: there is no such file.
    """
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInput(
            f"{file} doesn't exist, but {source} names it; put the image there, or download the data set again"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"{file} is not a file, but {source} names it as an image; put the image there")
    return ImageSource(file, class_name, path, split, offset=0, size=status.st_size)
