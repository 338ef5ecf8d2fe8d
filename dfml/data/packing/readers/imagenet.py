"""The reader of ImageNet-1K (ILSVRC 2012), from folders or from the official tar files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfml.data.packing.readers.checks import check_sources
from dfml.data.packing.readers.files import file_source, files_of_class
from dfml.data.packing.readers.imagenet_tars import TRAINING_TAR, training_images, validation_images
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

# The folder of each split: models are tested on the labeled validation images.
FOLDERS = {"train": "train", "test": "val"}


def read_imagenet(root: Path) -> list[ImageSource]:
    """Return the images of splits "train" and "test", sorted by path, with WNIDs as class names.

    Args:
        root: a folder with `train/<wnid>/…` and `val/<wnid>/…`, or, if it has neither, with
            `ILSVRC2012_img_train.tar`, `ILSVRC2012_img_val.tar` and `ILSVRC2012_devkit_t12.tar.gz`.
            Both give the same bytes under the same paths `train/<wnid>/<file>` and
            `val/<wnid>/<file>`.

    Raises:
        InvalidInput: a folder or file is missing, empty or malformed, or the classes of the two
            splits differ.
    """
    if any((root / folder).is_dir() for folder in FOLDERS.values()):
        found = [*_folder_images(root, "train"), *_folder_images(root, "test")]
    elif (root / TRAINING_TAR).is_file():
        found = [*training_images(root), *validation_images(root)]
    else:
        raise InvalidInput(
            f"{root} has neither folders train/ and val/ nor {TRAINING_TAR}; give a root with either, as ImageNet-1K "
            "is published"
        )
    classes = {split: {source.class_name for source in found if source.split == split} for split in FOLDERS}
    if classes["train"] != classes["test"] or len(classes["train"]) < 2:
        odd = sorted(classes["train"] ^ classes["test"])
        raise InvalidInput(
            f"{root} has {len(classes['train'])} classes in train, {len(classes['test'])} in val"
            f"{f', {odd[0]!r} is in one only' if odd else ''}; give both the same two or more classes"
        )
    return check_sources(sorted(found, key=lambda source: source.path), root)


def _folder_images(root: Path, split: str) -> Iterator[ImageSource]:
    top = root / FOLDERS[split]
    if not top.is_dir():
        raise InvalidInput(f"{top} is not a folder; give a root with train/ and val/, each with one folder per class")
    for folder in top.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            for name in files_of_class(folder):
                path = f"{FOLDERS[split]}/{folder.name}/{name}"
                yield file_source(folder / name, path, folder.name, split, str(folder))
