"""Finding and reading the images in a user's folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dfml.data.format.images import UNDECODABLE, decode, undecodable_reason
from dfml.data.packing.readers.files import image_files
from dfml.errors import InvalidInput

# The largest ratio of an image's longer side to its shorter one. The shorter side is resized to the
# recipe's size before the crop: 2 × 20,000 pixels would take gigabytes in each thread.
MOST_ELONGATED = 100


class Undecodable(Exception):
    """The file isn't an image, or is damaged or too elongated; the message states the reason."""


def images_below(root: Path) -> list[str]:
    """Return the paths, relative to `root`, of all images in and below it, sorted.

    Links to files are followed, links to folders aren't.

    Raises:
        InvalidInput: there is no such folder or no image in it, or an image isn't a file or its
            name isn't UTF-8.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "doesn't exist"
        raise InvalidInput(f"--images {root} {what}; give a folder with images in or below it")
    paths = [_path(root, file) for file in image_files(root)]
    if not paths:
        raise InvalidInput(
            f"--images {root} and the folders below it hold no image of a format that Pillow opens; give another folder"
        )
    return paths


def _path(root: Path, file: Path) -> str:
    # Checked now, not after hours of embedding the images before this one.
    if not file.is_file():
        raise InvalidInput(f"{file} is named like an image but isn't a file or a link to one; fix or remove it")
    path = file.relative_to(root).as_posix()
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the name of {path!r} in {root} isn't UTF-8; rename it") from error
    return path


def read_image(file: Path) -> Image.Image:
    """Return the decoded RGB image of a file.

    Raises:
        InvalidInput: the file can't be read: an I/O failure, not a corrupt image to skip.
        Undecodable: it can't be decoded, or one side is more than `MOST_ELONGATED` times the other.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file} can't be read ({error.strerror}); put a readable image there") from error
    try:
        image = decode(content)
    except UNDECODABLE as error:
        raise Undecodable(undecodable_reason(error)) from error
    if max(image.size) > MOST_ELONGATED * min(image.size):
        width, height = image.size
        raise Undecodable(
            f"{width:,} × {height:,} pixels, but the longer side may be at most {MOST_ELONGATED} times the shorter"
        )
    return image
