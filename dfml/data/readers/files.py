"""Files of a data set, found without being read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from PIL import Image

from dfml.data.source import ImageSource
from dfml.errors import InvalidInput


def existing(path: Path) -> Path:
    """The path itself.

    Raises:
        InvalidInput: nothing is there.
    """
    if not path.exists():
        raise InvalidInput(f"{path} doesn't exist: put the data set there as it is published, or give another root")
    return path


def files_of_class(folder: Path) -> list[str]:
    """Names of the files in a class folder, sorted, without hidden ones such as macOS leaves behind ("._x", ".DS_Store").

    Raises:
        InvalidInput: there are none.
    """
    with os.scandir(folder) as entries:
        # A dangling link is listed, so that `file_source` names it.
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    if not names:
        raise InvalidInput(f"class folder {folder} holds no images: put them there as they are published, or remove it")
    return names


def image_files(folder: Path) -> list[Path]:
    """The files below a folder that have an image format's ending, sorted. Hidden ones are passed over, links to folders not followed."""
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in endings and not path.name.startswith(".")
    )


def file_source(file: Path, path: str, class_name: str, split: str, place: str) -> ImageSource:
    """An image that has a file to itself; its size is asked for, its bytes aren't read.

    Args:
        place: what names the file, for the sentences.

    Raises:
        InvalidInput: there is no such file.
    """
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInput(
            f"{file} doesn't exist, but {place} names it: put the image there, or download the data set again"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"{file} is not a file, but {place} names it as an image: put the image there")
    return ImageSource(file, class_name, path, split, offset=0, size=status.st_size)
