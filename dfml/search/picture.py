"""Draws queries, each beside its nearest images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dfml.embed.folder import Undecodable, read_image
from dfml.errors import InvalidInput
from dfml.image_grid import Cell, Look, draw_grid
from dfml.search.nearest import Match

QUERY, FOUND, ITSELF = "#2563eb", "#c9d1d9", "#93b4f5"  # frames
LOOK = Look(side=168, gap=16, text=13, frame=2, apart=18)


def search_picture(
    queries: Sequence[tuple[Path, Image.Image]], matches: Sequence[Sequence[Match]], root: Path
) -> Image.Image:
    """A row a query: the query in a blue frame, then its nearest with rank and cosine.

    A query that lies in the index itself has a pale blue frame there. What isn't at its place any more is an empty field.

    Args:
        queries: their files and images.
        matches: of each.
        root: of the index's images.
    """
    rows = []
    for (file, image), found in zip(queries, matches, strict=True):
        nearest = [_cell(root, match, rank, is_itself(root, match, file)) for rank, match in enumerate(found, start=1)]
        rows.append([Cell(LOOK.small(image), ("query", file.name), QUERY), *nearest])
    return draw_grid(rows, LOOK)


def is_itself(root: Path, match: Match, query: Path) -> bool:
    """Whether a match is the very file that was asked for."""
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
    except (InvalidInput, Undecodable):
        return Cell(None, caption, frame, "unreadable")
