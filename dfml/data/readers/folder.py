"""Reads a folder of folders: one subfolder a class, its name the class's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dfml.data.readers.checks import check_sources
from dfml.data.readers.files import file_source, image_files
from dfml.data.source import ImageSource
from dfml.errors import InvalidInput


def read_folder(root: Path, test_share: float = 0.5, seed: int = 0) -> list[ImageSource]:
    """The images below `root`, by split and class, sorted.

    Args:
        root: holds one folder a class, which `divide_classes` divides between train and test; or exactly two folders,
            `train` and `test`, each with one folder a class: then that split is kept, and the two may share classes.
            Images may lie in folders further below. Files that no image format's ending fits are passed over.
        test_share: of the classes, 0 … 1.
        seed: decides which.

    Raises:
        InvalidInput: there are too few classes, or a class has fewer than two images, of which one could find the
            other (fewer than one, where train and test share the class).
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder: give one that holds a folder of images for each class")
    classes = _subfolders(root)
    given = {name: _subfolders(root / name) for name in classes}
    if set(classes) == {"train", "test"} and all(given.values()):
        if len(given["train"]) < 2:
            raise InvalidInput(f"{root / 'train'} has 1 class folder: give at least 2")
        shared = set(given["train"]) & set(given["test"])
        folders = [
            (root / split / name, split, 1 if name in shared else 2)  # folder, split, fewest images
            for split in ("train", "test")
            for name in given[split]
        ]
    else:
        divided = divide_classes(classes, test_share, seed, f"{root} has {len(classes)} class folders")
        folders = [(root / name, divided[name], 2) for name in classes]
    return check_sources((image for folder in folders for image in _images(root, *folder)), root)


def divide_classes(names: Iterable[str], test_share: float, seed: int, given: str) -> dict[str, str]:
    """The split of each class, "train" or "test": at random, a pure function of the names and the seed.

    Args:
        given: begins the sentence that refuses them, such as "pets.csv has 2 classes".

    Raises:
        InvalidInput: there are too few.
    """
    classes = sorted(set(names))
    testing = round(test_share * len(classes))
    # Training needs a class to train on and one to validate on.
    if testing < 1 or len(classes) - testing < 2:
        raise InvalidInput(
            f"{given}, of which {testing} would be for test: give at least 2 for training and 1 for test"
        )
    shuffled = np.random.default_rng(seed).permutation(classes)
    return {str(name): "test" if rank < testing else "train" for rank, name in enumerate(shuffled)}


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(root: Path, folder: Path, split: str, fewest: int) -> Iterator[ImageSource]:
    files = image_files(folder)
    if len(files) < fewest:
        raise InvalidInput(
            f"class folder {folder} has {len(files)} image(s), and one is found by another of its class: "
            "give it two or more, or remove it"
        )
    for file in files:
        yield file_source(file, file.relative_to(root).as_posix(), folder.name, split, str(folder))
