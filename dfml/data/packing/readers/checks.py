"""Checks of the list of images that any reader returns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

SPLITS = ("train", "test", "query", "gallery")


def check_sources(sources: Iterable[ImageSource], origin: Path) -> list[ImageSource]:
    """Return the images ordered by split (as in `SPLITS`), with their order within each split kept.

    Args:
        sources: the images; their splits are in `SPLITS`.
        origin: the folder or file that was read, for messages.

    Raises:
        InvalidInput: there are no images, two in one split have the same path, or a path leads out
            of the data set.
    """
    found = sorted(sources, key=lambda source: SPLITS.index(source.split))  # stable
    if not found:
        raise InvalidInput(f"{origin} holds no images; put the data set there as it is published")
    seen: set[tuple[str, str]] = set()
    for source in found:
        path_inside(source.path, str(origin))
        if (source.split, source.path) in seen:
            raise InvalidInput(
                f"{origin} has {source.path!r} twice in split {source.split!r}; remove one of the two, or download it "
                "again"
            )
        seen.add((source.split, source.path))
    return found


def path_inside(written: str, source: str) -> str:
    """Return a path of an annotation without redundant parts (`./a//b` → `a/b`).

    Args:
        written: the path as the annotation has it.
        source: the position of the annotation, for messages.

    Raises:
        InvalidInput: the path is absolute or contains `..`.
    """
    path = PurePosixPath(written)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidInput(
            f"{source} has path {written!r}, which leads out of the data set's folder; give it relative to that "
            "folder, without '..'"
        )
    return path.as_posix()
