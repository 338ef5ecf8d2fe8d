"""A picture of queries, each next to its nearest images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dfml.embed.folder import Undecodable, read_image
from dfml.errors import InvalidInput, RunFailed
from dfml.image_grid import Cell, Look, draw_grid
from dfml.search.nearest import Match

# Colors of the frames.
QUERY, FOUND, ITSELF = "#2563eb", "#c9d1d9", "#93b4f5"
LOOK = Look(side=168, gap=16, text=13, frame=2, apart=18)


def search_picture(
    queries: Sequence[tuple[Path, Image.Image]], matches: Sequence[Sequence[Match]], root: Path
) -> Image.Image:
    """Draw one row per query: the query in a blue frame, then its matches with rank and cosine.

    A match that is the query itself has a pale blue frame. An image that is missing is an empty
    field.

    Args:
        queries: the files and images of the queries.
        matches: the matches of each query.
        root: the root of the index's images.
    """
    rows = []
    for (file, image), found in zip(queries, matches, strict=True):
        nearest = [_cell(root, match, rank, is_itself(root, match, file)) for rank, match in enumerate(found, start=1)]
        rows.append([Cell(LOOK.small(image), ("query", file.name), QUERY), *nearest])
    return draw_grid(rows, LOOK)


def is_itself(root: Path, match: Match, query: Path) -> bool:
    """Return whether a match is the query's own file."""
    return (root / match.path).resolve() == query.resolve()


def _cell(root: Path, match: Match, rank: int, itself: bool) -> Cell:
    file = root / match.path
    folder, _, name = match.path.rpartition("/")
    caption = (
        f"{rank} · {match.cosine:.3f}",
        *(("the query itself",) if itself else (folder, name) if folder else (name,)),
    )
    frame = ITSELF if itself else FOUND
    if not file.exists():
        return Cell(None, caption, frame, "gone")
    try:
        return Cell(LOOK.small(read_image(file)), caption, frame)
    except (InvalidInput, RunFailed, Undecodable):
        return Cell(None, caption, frame, "unreadable")
