"""Images in a folder of the user's own: found, read, and the sentences for what can't be."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dfml.data.images import UNDECODABLE, decode, undecodable_reason
from dfml.data.readers.files import image_files
from dfml.errors import InvalidInput

# The longer side of an image to its shorter one. The shorter is resized to what the model's recipe says before the middle is cut
# out: 2 × 20,000 pixels would take gigabytes on the way, in each thread, for a crop of what is no picture.
MOST_ELONGATED = 100


class Undecodable(Exception):
    """The file was read, but it is no image, a damaged one or one too long for its width; the message says why."""


def images_below(root: Path) -> list[str]:
    """The images in a folder and those below it, sorted: their paths from there. Links to files are followed, those to folders aren't.

    Raises:
        InvalidInput: there is no such folder, it holds no image, or one that is no file or has no UTF-8 name.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "doesn't exist"
        raise InvalidInput(f"--images {root} {what}: give a folder with images in it or below")
    paths = [_path(root, file) for file in image_files(root)]
    if not paths:
        raise InvalidInput(f"--images {root} holds no image of a format that Pillow opens, nor does a folder below it")
    return paths


def _path(root: Path, file: Path) -> str:
    # Now, not after hours of embedding those before it.
    if not file.is_file():
        raise InvalidInput(f"{file} is named like an image but is no file, nor a link to one: mend or remove it")
    path = file.relative_to(root).as_posix()
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the name of {path!r} in {root} isn't UTF-8: rename it") from error
    return path


def read_image(file: Path) -> Image.Image:
    """The decoded RGB image of a file.

    Raises:
        InvalidInput: it can't be read. Where a disk is away that goes for all, so none must be left out for it.
        Undecodable: it can't be decoded, or one side is more than `MOST_ELONGATED` times the other.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file} can't be read ({error.strerror}): put an image there that you may read") from error
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
