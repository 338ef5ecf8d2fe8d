"""Reads a folder of folders: one subfolder a class, its name the class's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dfml.data.shards import ImageRow
from dfml.errors import InvalidInput


def read_folder(root: Path, test_share: float = 0.5, seed: int = 0) -> Iterator[ImageRow]:
    """The images below `root`; its classes are divided at random, a pure function of their names and the seed.

    Args:
        root: holds one folder a class; images may lie in folders further below. Files that no image format's ending
            fits are passed over.
        test_share: of the classes, 0 … 1.
        seed: decides which.

    Raises:
        InvalidInput: there are too few classes, or a class has fewer than two images.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder: give one that holds a folder of images for each class")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    testing = round(test_share * len(classes))
    # Training needs a class to train on and one to validate on.
    if testing < 1 or len(classes) - testing < 2:
        raise InvalidInput(
            f"{root} has {len(classes)} class folders, of which {testing} would be for test: give at least 2 for training and 1 for test"
        )
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    shuffled = np.random.default_rng(seed).permutation(classes)
    for split, names in (("test", sorted(shuffled[:testing])), ("train", sorted(shuffled[testing:]))):
        for name in names:
            files = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in endings)
            if len(files) < 2:
                raise InvalidInput(
                    f"class folder {root / name} has {len(files)} image(s), and one is found by another of its class: "
                    "give it two or more, or remove it"
                )
            for file in files:
                yield ImageRow(file.read_bytes(), str(name), file.relative_to(root).as_posix(), split)
