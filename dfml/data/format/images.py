"""Decoding of images of any format that Pillow opens to RGB."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from dfml.errors import one_line

# Exceptions that Pillow's readers raise for bytes that are no image, a damaged one or a
# suspiciously large one.
UNDECODABLE = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, struct.error, Image.DecompressionBombError)

# Transpositions that turn an image upright, by EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Keys of `Image.info` under which Pillow keeps the orientation.
ORIENTATION_IN = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def decode(encoded: bytes) -> Image.Image:
    """Decode an image of any format that PIL opens to RGB; see `to_rgb`."""
    with Image.open(io.BytesIO(encoded)) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, upright (by EXIF orientation), on a white background."""
    if (turn := TURNS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
        # Remove the orientation, so that nobody turns the image a second time.
        for where in ORIENTATION_IN:
            image.info.pop(where, None)
    # 16 bits per pixel, which PIL's own conversion would clip at 255.
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    # Most photographs are RGB and need no copy.
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def undecodable_reason(error: Exception) -> str:
    """Return in one line why an image can't be decoded, given one of `UNDECODABLE`."""
    # The error's own text contains a memory address, which changes from run to run.
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return one_line(error) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """Return the image's EXIF orientation; 1 (upright) if the EXIF data is missing or damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except UNDECODABLE:
        return 1
    return orientation if isinstance(orientation, int) else 1
