"""What every reader's list of images has to keep, whatever files it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dfml.data.source import ImageSource
from dfml.errors import InvalidInput

SPLITS = ("train", "test", "query", "gallery")


def check_sources(sources: Iterable[ImageSource], origin: Path) -> list[ImageSource]:
    """The images split by split, in the order of `SPLITS`; within a split, in the order in which they come.

    Args:
        sources: of splits in `SPLITS`.
        origin: the folder or file that was read, for the sentences.

    Raises:
        InvalidInput: there are no images, two in one split have the same path, or a path leads out of the data set.
    """
    found = sorted(sources, key=lambda source: SPLITS.index(source.split))  # stable
    if not found:
        raise InvalidInput(f"{origin} holds no images: put the data set there as it is published")
    seen: set[tuple[str, str]] = set()
    for source in found:
        path_inside(source.path, str(origin))
        if (source.split, source.path) in seen:
            raise InvalidInput(
                f"{origin} has {source.path!r} twice in split {source.split!r}: remove one of the two, or download it again"
            )
        seen.add((source.split, source.path))
    return found


def path_inside(written: str, place: str) -> str:
    """A path as an annotation gives it, without needless parts (`./a//b` → `a/b`).

    Raises:
        InvalidInput: it is absolute, or climbs with `..`; `place` says where it is written.
    """
    path = PurePosixPath(written)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidInput(
            f"{place} has path {written!r}, which leads out of the data set's folder: give it relative to that folder, without '..'"
        )
    return path.as_posix()
