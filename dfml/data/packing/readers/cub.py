"""The reader of CUB-200-2011 (Wah et al. 2011) as published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfml.data.packing.readers.checks import check_sources
from dfml.data.packing.readers.files import existing, file_source, files_of_class
from dfml.data.packing.source import ImageSource

# The first half of the 200 classes.
TRAINING_CLASSES = 100


def read_cub(root: Path) -> list[ImageSource]:
    """Return the images in `images/001.Black_footed_Albatross` … `images/200.…`, sorted.

    Args:
        root: the folder `CUB_200_2011`, whose name starts the images' paths.

    Raises:
        InvalidInput: the folder `images` is missing, or a class folder is empty.
    """
    return check_sources(_images(root), root)


def _images(root: Path) -> Iterator[ImageSource]:
    for folder in sorted(existing(root / "images").iterdir()):
        number = folder.name.split(".")[0]
        if folder.is_dir() and number.isdecimal():
            split = "train" if int(number) <= TRAINING_CLASSES else "test"
            for name in files_of_class(folder):
                path = f"{root.name}/images/{folder.name}/{name}"
                yield file_source(folder / name, path, folder.name, split, str(folder))
