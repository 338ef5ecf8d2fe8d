"""What packing left at a place, and folders of one's own images to pack."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from dfml.data.shards import ImageRow
from tests.images import encoded


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file's content, by its path: two packings are the same if these are equal."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@functools.cache
def noise(seed: int, size: int = 12) -> bytes:
    """A PNG of another content for each seed."""
    return encoded(
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)), "PNG"
    )


def many(classes: int, images: int, split: str = "train") -> list[ImageRow]:
    """Rows class by class, as a reader gives them."""
    return [
        ImageRow(noise(1000 * c + i), f"{split} {c}", f"{split}/{c}/{i}.png", split)
        for c in range(classes)
        for i in range(images)
    ]


def class_folders(root: Path, classes: int, images: int, size: int = 12) -> Path:
    """A folder of folders of PNGs."""
    for c in range(classes):
        folder = root / f"class {c:02d}"
        folder.mkdir(parents=True)
        for i in range(images):
            (folder / f"{i}.png").write_bytes(noise(1000 * c + i, size))
    return root


def slow_images(root: Path, classes: int = 6, images: int = 10) -> Path:
    """A folder of folders of PNGs that are small but take 10 ms each to decode: time to interrupt who packs them."""
    for c in range(classes):
        folder = root / f"class {c}"
        folder.mkdir(parents=True)
        content = encoded(Image.new("RGB", (1500, 1500), (20 * c, 0, 0)), "PNG")
        for i in range(images):
            (folder / f"{i}.png").write_bytes(content + bytes([i]))  # what follows an image's end is passed over
    return root
