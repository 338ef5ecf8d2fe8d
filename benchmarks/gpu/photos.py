"""Make photographs and pack them as a data set.

    python -m benchmarks.gpu.photos FOLDER CLASSES PHOTOS_PER_CLASS WIDTH HEIGHT

Writes FOLDER/photos, a folder per class, and FOLDER/packed.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

QUALITY = 92


class Photo(NamedTuple):
    """What a photograph is made of.

    Attributes:
        number: within its class.
        width, height: about its size, in pixels.
    """

    file: Path
    label: int
    number: int
    width: int
    height: int


def draw(photo: Photo) -> None:
    """Write a JPEG as large, and about as hard to decode, as a photograph of CUB.

    Photographs of a class share their coarse colors.
    """
    of_class = np.random.default_rng(photo.label)
    of_photo = np.random.default_rng([photo.label, photo.number])
    width, height = int(photo.width * of_photo.uniform(0.8, 1.0)), int(photo.height * of_photo.uniform(0.8, 1.2))
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, weight, rng in ((4, 0.4, of_class), (10, 0.3, of_class), (40, 0.25, of_photo), (150, 0.2, of_photo)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    pixels += of_photo.standard_normal(pixels.shape, np.float32) * 5
    Image.fromarray((pixels - 20).clip(0, 255).astype(np.uint8)).save(photo.file, quality=QUALITY)


def make(folder: Path, classes: int, photos_per_class: int, width: int, height: int) -> None:
    """Draw all photographs, on all cores, and pack them."""
    photos = []
    for label in range(classes):
        place = folder / "photos" / f"{label:03d}"
        place.mkdir(parents=True, exist_ok=True)
        photos += [Photo(place / f"{i}.jpg", label, i, width, height) for i in range(photos_per_class)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw, photos, chunksize=16))
    words = ["-m", "dfml.data", "pack", "--dataset", "photos", "--root", folder / "photos", "--out", folder / "packed"]
    subprocess.run([sys.executable, *map(str, words)], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]), *map(int, sys.argv[2:]))
