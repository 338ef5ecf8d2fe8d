"""Reads ImageNet's folder layout: `train/<class>/…` and `val/<class>/…`, the same classes in both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfml.data.shards import ImageRow
from dfml.errors import InvalidInput

FOLDERS = {
    "train": "train",
    "test": "val",
}  # by split: ImageNet's labelled validation images are what models are tested on


def read_imagenet(root: Path) -> Iterator[ImageRow]:
    """The images below `root`, of splits "train" and "test".

    Raises:
        InvalidInput: a folder is missing, or the two don't hold the same classes.
    """
    classes: dict[str, list[str]] = {}
    for folder in FOLDERS.values():
        if not (root / folder).is_dir():
            raise InvalidInput(
                f"{root / folder} is not a folder: give a root with train/ and val/, each with a folder for each class"
            )
        classes[folder] = sorted(path.name for path in (root / folder).iterdir() if path.is_dir())
    if classes["train"] != classes["val"] or len(classes["train"]) < 2:
        odd = sorted(set(classes["train"]) ^ set(classes["val"]))
        raise InvalidInput(
            f"{root}/train has {len(classes['train'])} classes, {root}/val has {len(classes['val'])}"
            f"{f', {odd[0]!r} is in one only' if odd else ''}: give both the same two classes or more"
        )
    for split, folder in FOLDERS.items():
        for name in classes[folder]:
            for file in sorted(path for path in (root / folder / name).iterdir() if path.is_file()):
                yield ImageRow(file.read_bytes(), name, file.relative_to(root).as_posix(), split)
