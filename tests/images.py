"""Small images in the encodings and modes of real data sets, and a few animals to pack."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dfml.data.format.shards import ImageRow


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(seed: int = 0) -> Image.Image:
    """Return an image of noise that depends on the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def row(class_name: str, split: str = "train", image: bytes | None = None, path: str = "some.png") -> ImageRow:
    return ImageRow(image or encoded(picture(len(class_name)), "PNG"), class_name, path, split)


ANIMALS = [
    ImageRow(encoded(picture(0), "PNG"), "cat", "cat/0.png", "train"),
    ImageRow(encoded(picture(1), "JPEG"), "dog", "dog/1.jpg", "train"),
    ImageRow(encoded(picture(2), "WEBP", lossless=True), "cat", "cat/2.webp", "train"),
    ImageRow(encoded(picture(3), "PNG"), "owl", "owl/3.png", "test"),
    ImageRow(encoded(picture(4), "PNG"), "elk", "elk/4.png", "test"),
]


def grey() -> bytes:
    return encoded(Image.new("L", (4, 4), 100), "PNG")


def palette_with_transparency() -> bytes:
    """Return a blue image with one transparent pixel at the top left."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    return encoded(image, "PNG", transparency=0)


def half_transparent() -> bytes:
    return encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "PNG")


def cmyk() -> bytes:
    """Return a cyan JPEG for print."""
    return encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100)


def bilevel() -> bytes:
    return encoded(Image.new("1", (4, 4), 1), "PNG")


def sixteen_bit() -> bytes:
    """Return a 16-bit image with 0x64 in the upper byte of each pixel: gray 100."""
    return encoded(Image.fromarray(np.full((4, 4), 0x6400, dtype=np.uint16)), "PNG")


def turned_by_exif() -> bytes:
    """Return an image stored as 16 × 8, red on the left, and displayed upright, red on top."""
    lying = Image.new("RGB", (16, 8), "blue")
    lying.paste("red", (0, 0, 8, 8))
    exif = lying.getexif()
    exif[0x0112] = 6  # Orientation
    return encoded(lying, "JPEG", exif=exif, quality=100, subsampling=0)


def animated() -> bytes:
    """Return a GIF of two frames: green, then red."""
    frames = [Image.new("RGB", (4, 4), color) for color in ("lime", "red")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def huge_header() -> bytes:
    """Return a BMP that claims to be 60000 × 60000, which PIL refuses as a decompression bomb."""
    content = bytearray(encoded(picture(), "BMP"))
    content[18:26] = (60000).to_bytes(4, "little") * 2
    return bytes(content)


# Bytes that aren't an image, or not a complete one, by name.
BAD = {
    "text": b"no image",
    "empty": b"",
    "PNG cut off": encoded(picture(), "PNG")[:60],
    "JPEG cut off": encoded(picture(), "JPEG")[:200],
    "decompression bomb": huge_header(),
}
