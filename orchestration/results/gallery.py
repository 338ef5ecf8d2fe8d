"""Retrievals as pictures: a row a query, its nearest images beside it, right and wrong ones told apart by colour and mark."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

from PIL import Image

from dfml.data.cache import Cache
from dfml.data.dataset import ShardedImages
from dfml.data.evaluation_set import splits_for_test
from dfml.data.manifest import read_manifest
from dfml.image_grid import Cell, Look, draw_grid
from orchestration.results.style import INK, RIGHT, WRONG
from orchestration.results.summary import Results
from orchestration.trials.shown import picture_of

LOOK = Look(side=168, gap=14, text=14, frame=5, apart=18)  # twice of what a page shows

# By the name of a group (`trials/examples.py`): its title, and how its queries were chosen.
GROUPS = {
    "random": ("Drawn at random", "Queries drawn from all test images: the fair impression."),
    "right": ("Found", "Queries drawn from those whose nearest image is of their class."),
    "surest mistake": (
        "The surest mistakes",
        "Of the queries whose nearest image is of another class, those with the highest cosine to it: often images that are alike, or labels that "
        "are wrong.",
    ),
    "found last": (
        "Found last",
        "Of the queries whose nearest image is of another class, those before whose first image of their own class most others come.",
    ),
    "nearest is wrong": (
        "Not found",
        "Queries drawn from those whose nearest image is of another class.",
    ),  # of sweeps until 2026
}


class Gallery(NamedTuple):
    """The retrievals of a group.

    Attributes:
        name: of its file, without ending.
        title: above it.
        caption: how its queries were chosen.
        picture: rows of queries and neighbours.
    """

    name: str
    title: str
    caption: str
    picture: Image.Image


def galleries(results: Results, cache: Cache) -> list[Gallery]:
    """A picture for each group of retrievals; none for a classifier.

    Of shards that aren't at hand only the images that are shown are fetched.
    """
    if not results.retrievals:
        return []
    splits = splits_for_test(read_manifest(results.data), "retrieval")
    queries, gallery = (ShardedImages(results.data, split, cache) for split in (splits[0], splits[-1]))
    found = []
    for group in dict.fromkeys(row["drawn"] for row in results.retrievals):
        title, caption = GROUPS[group]
        rows = [row for row in results.retrievals if row["drawn"] == group]
        picture = _picture(rows, queries, gallery)
        found.append(Gallery(picture_of(group), title, caption, picture))
    return found


def _picture(rows: list[dict[str, Any]], queries: ShardedImages, gallery: ShardedImages) -> Image.Image:
    lines = []
    for row in rows:
        place = row.get("place")
        line = [_cell(queries, row["query"], f"query, {place} before" if place else "query", INK)]
        for nearest, right, cosine in zip(row["nearest"], row["right"], row["cosine"], strict=True):
            mark, colour = ("✓", RIGHT) if right else ("✗", WRONG)
            line.append(_cell(gallery, nearest, f"{mark} {cosine:.3f}", colour))
        lines.append(line)
    return draw_grid(lines, LOOK)


def _cell(images: ShardedImages, row: int, text: str, colour: str) -> Cell:
    return Cell(LOOK.small(images.glance(row)), (text, images.class_names[images.labels[row]]), colour)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
