"""Helpers for packing tests: files of a packed data set, and folders of images to pack."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from dfml.data.format.shards import ImageRow
from tests.images import encoded


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the content of all files by path; equal results mean equal packed data sets."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@functools.cache
def noise(seed: int, size: int = 12) -> bytes:
    """Return a PNG whose content depends on the seed."""
    return encoded(
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)), "PNG"
    )


def many(classes: int, images: int, split: str = "train") -> list[ImageRow]:
    """Return the rows of `images` images per class, class by class, as a reader does."""
    return [
        ImageRow(noise(1000 * c + i), f"{split} {c}", f"{split}/{c}/{i}.png", split)
        for c in range(classes)
        for i in range(images)
    ]


def class_folders(root: Path, classes: int, images: int, size: int = 12) -> Path:
    """Write one folder of PNGs per class."""
    for c in range(classes):
        folder = root / f"class {c:02d}"
        folder.mkdir(parents=True)
        for i in range(images):
            (folder / f"{i}.png").write_bytes(noise(1000 * c + i, size))
    return root


def slow_images(root: Path, classes: int = 6, images: int = 10) -> Path:
    """Write a folder per class of PNGs that take 10 ms to decode, so packing can be interrupted."""
    for c in range(classes):
        folder = root / f"class {c}"
        folder.mkdir(parents=True)
        content = encoded(Image.new("RGB", (1500, 1500), (20 * c, 0, 0)), "PNG")
        for i in range(images):
            # Decoders ignore bytes after an image's end.
            (folder / f"{i}.png").write_bytes(content + bytes([i]))
    return root
