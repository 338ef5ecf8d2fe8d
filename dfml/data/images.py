"""From encoded bytes to an RGB image, whatever Pillow opens."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# What Pillow's readers raise for bytes that are no image, or a damaged one, or one that is suspiciously large.
UNDECODABLE = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, struct.error, Image.DecompressionBombError)

# How to show an image upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Where Pillow keeps what says so.
ORIENTATION_IN = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def decode(encoded: bytes) -> Image.Image:
    """Decode an image of any format PIL opens to RGB; see `to_rgb`."""
    with Image.open(io.BytesIO(encoded)) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, upright by its EXIF; what is transparent becomes white."""
    if (turn := TURNS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
        for where in ORIENTATION_IN:  # or it would be turned again by whoever looks there
            image.info.pop(where, None)
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image  # most photographs: nothing to copy
    return image.convert("RGB")


def undecodable_reason(error: Exception) -> str:
    """Why an image can't be decoded, of one of `UNDECODABLE`, in one line."""
    if isinstance(error, UnidentifiedImageError):  # its own text has an address in memory, another one each time
        return "not an image of a known format"
    return " ".join(str(error).split()) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """By the image's EXIF; 1, upright, where that is missing or damaged, which the pixels need not be."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except UNDECODABLE:
        return 1
    return orientation if isinstance(orientation, int) else 1
