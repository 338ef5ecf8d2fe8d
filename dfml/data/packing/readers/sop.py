"""The reader of Stanford Online Products (Song et al. 2016) as published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfml.data.packing.readers.annotations import annotation_lines, class_number
from dfml.data.packing.readers.checks import check_sources, path_inside
from dfml.data.packing.readers.files import existing, file_source
from dfml.data.packing.source import ImageSource


def read_sop(root: Path) -> list[ImageSource]:
    """Return the images that `Ebay_train.txt` and `Ebay_test.txt` name, in their order.

    Args:
        root: the folder `Stanford_Online_Products`, whose name starts the images' paths.

    Raises:
        InvalidInput: a list or an image is missing, or a line is malformed.
    """
    return check_sources(_images(root), root)


def _images(root: Path) -> Iterator[ImageSource]:
    for split in ("train", "test"):
        file = existing(root / f"Ebay_{split}.txt")
        lines = annotation_lines(file.read_bytes(), file, "image_id class_id super_class_id path", headings=1)
        for source, (_, number, _, written) in lines:
            path = path_inside(written, source)
            # `bicycle_final/111085122871_0.JPG` of class 1 → "bicycle 1"
            class_name = f"{path.split('_final')[0]} {class_number(number, source)}"
            yield file_source(root / path, f"{root.name}/{path}", class_name, split, source)
