"""Reads In-Shop Clothes Retrieval (DeepFashion, Liu et al. 2016) as it is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfml.data.readers.annotations import annotation_lines
from dfml.data.readers.checks import check_sources, path_inside
from dfml.data.readers.files import existing, file_source
from dfml.data.source import ImageSource
from dfml.errors import InvalidInput

PARTITION = "list_eval_partition.txt"
STATUSES = ("train", "query", "gallery")


def read_inshop(root: Path) -> list[ImageSource]:
    """The images in `Img/` that the partition names, in its order: split by split, train, query and gallery.

    Args:
        root: `Inshop_Clothes`, which has the partition in `Eval/` or beside it; its name begins the paths.

    Raises:
        InvalidInput: the partition or an image is missing, or a line is malformed.
    """
    return check_sources(_images(root), root)


def _images(root: Path) -> Iterator[ImageSource]:
    beside = root / PARTITION
    file = (
        beside if beside.exists() and not (root / "Eval" / PARTITION).exists() else existing(root / "Eval" / PARTITION)
    )
    # Above the lines stand their number and the headings.
    lines = annotation_lines(file.read_bytes(), file, "image_name item_id evaluation_status", headings=2)
    for place, (written, item, split) in lines:
        if split not in STATUSES:
            raise InvalidInput(
                f"{place} has evaluation status {split!r}, not one of {', '.join(STATUSES)}: mend it, or download the file again"
            )
        path = path_inside(written, place)
        yield file_source(root / "Img" / path, f"{root.name}/Img/{path}", item, split, place)
