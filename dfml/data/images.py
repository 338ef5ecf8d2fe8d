"""From encoded bytes to an RGB image, whatever Pillow opens."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image, ImageOps

# What Pillow raises for bytes that are no image, or a damaged one, or one that is suspiciously large.
UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def decode(encoded: bytes) -> Image.Image:
    """Decode an image of any format PIL opens to RGB; see `to_rgb`."""
    with Image.open(io.BytesIO(encoded)) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, upright by its EXIF; what is transparent becomes white."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image  # most photographs: nothing to copy
    return image.convert("RGB")
