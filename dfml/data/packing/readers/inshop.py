"""The reader of In-Shop Clothes Retrieval (DeepFashion, Liu et al. 2016) as published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfml.data.packing.readers.annotations import annotation_lines
from dfml.data.packing.readers.checks import check_sources, path_inside
from dfml.data.packing.readers.files import existing, file_source
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

PARTITION = "list_eval_partition.txt"
STATUSES = ("train", "query", "gallery")


def read_inshop(root: Path) -> list[ImageSource]:
    """Return the images in `Img/` that the partition names, in its order, split by split.

    Args:
        root: the folder `Inshop_Clothes`, with the partition in it or in its folder `Eval/`; its
            name starts the images' paths.

    Raises:
        InvalidInput: the partition or an image is missing, or a line is malformed.
    """
    return check_sources(_images(root), root)


def _images(root: Path) -> Iterator[ImageSource]:
    beside = root / PARTITION
    file = (
        beside if beside.exists() and not (root / "Eval" / PARTITION).exists() else existing(root / "Eval" / PARTITION)
    )
    # The two heading lines are the number of images and the names of the columns.
    lines = annotation_lines(file.read_bytes(), file, "image_name item_id evaluation_status", headings=2)
    for source, (written, item, split) in lines:
        if split not in STATUSES:
            raise InvalidInput(
                f"{source} has evaluation status {split!r}, not one of {', '.join(STATUSES)}; fix it, or download the "
                "file again"
            )
        path = path_inside(written, source)
        yield file_source(root / "Img" / path, f"{root.name}/Img/{path}", item, split, source)
