"""The reader of a folder with one subfolder per class, named after the class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dfml.data.packing.readers.checks import check_sources
from dfml.data.packing.readers.files import file_source, image_files
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput


def read_folder(root: Path, test_share: float = 0.5, seed: int = 0) -> list[ImageSource]:
    """Return the images below `root`, sorted by split and class.

    Args:
        root: a folder with one subfolder per class, which `divide_classes` divides between train
            and test; or one with exactly the subfolders `train` and `test`, each with one folder
            per class: that split is kept, and the two may share classes. Images may be in nested
            folders. Files without an image format's extension are skipped.
        test_share: the share of the classes that are kept for test, 0 … 1.
        seed: the seed of the random choice of test classes.

    Raises:
        InvalidInput: there are too few classes, or a class has fewer than two images, so retrieval
            is undefined (fewer than one if train and test share the class).
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder; give one that holds a folder of images for each class")
    classes = _subfolders(root)
    given = {name: _subfolders(root / name) for name in classes}
    if set(classes) == {"train", "test"} and all(given.values()):
        if len(given["train"]) < 2:
            raise InvalidInput(f"{root / 'train'} has 1 class folder; give at least 2")
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
    """Return a random split of each class, "train" or "test": a pure function of names and seed.

    Args:
        names: the names of the classes.
        test_share: the share of the classes that are kept for test, 0 … 1.
        seed: the seed of the random choice.
        given: the beginning of the error message, such as "pets.csv has 2 classes".

    Raises:
        InvalidInput: there are too few classes.
    """
    classes = sorted(set(names))
    testing = round(test_share * len(classes))
    # Training needs one class to train on and one to validate on.
    if testing < 1 or len(classes) - testing < 2:
        raise InvalidInput(
            f"{given}, of which {testing} would be for test; give at least 2 for training and 1 for test"
        )
    shuffled = np.random.default_rng(seed).permutation(classes)
    return {str(name): "test" if rank < testing else "train" for rank, name in enumerate(shuffled)}


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(root: Path, folder: Path, split: str, fewest: int) -> Iterator[ImageSource]:
    files = image_files(folder)
    if len(files) < fewest:
        raise InvalidInput(
            f"class folder {folder} has {len(files)} image(s), but retrieval needs two of a class; "
            "give it two or more, or remove it"
        )
    for file in files:
        yield file_source(file, file.relative_to(root).as_posix(), folder.name, split, str(folder))
