"""Retrievals as pictures: one row per query with its nearest images, marked as right or wrong."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

from PIL import Image

from dfml.data.format.manifest import read_manifest
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.evaluation_set import splits_for_test
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.image_grid import Cell, Look, draw_grid
from orchestration.report.results import Results
from orchestration.report.style import INK, RIGHT, WRONG
from orchestration.trials.retrievals import GROUPS, picture_of

LOOK = Look(side=168, gap=14, text=14, frame=5, apart=18)  # twice the size on the page


class Gallery(NamedTuple):
    """The retrievals of a group.

    Attributes:
        name: the file's name, without extension.
        title: the title above the picture.
        caption: a sentence on how the queries were chosen.
        picture: the rows of queries and neighbors.
    """

    name: str
    title: str
    caption: str
    picture: Image.Image


def galleries(results: Results, cache: Cache) -> list[Gallery]:
    """Draw a picture per group of retrievals; a classifier has none.

    From shards that aren't in the cache, only the shown images are fetched.
    """
    if not results.retrievals:
        return []
    splits = splits_for_test(read_manifest(results.data), "retrieval")
    queries, gallery = (ShardedImages(results.data, split, cache) for split in (splits[0], splits[-1]))
    found = []
    for group in dict.fromkeys(row["drawn"] for row in results.retrievals):
        _, title, caption = GROUPS[group]
        rows = [row for row in results.retrievals if row["drawn"] == group]
        picture = _picture(rows, queries, gallery)
        found.append(Gallery(picture_of(group), title, caption, picture))
    return found


def _picture(rows: list[dict[str, Any]], queries: ShardedImages, gallery: ShardedImages) -> Image.Image:
    lines = []
    for row in rows:
        rank_of_first_match = row["rank_of_first_match"]
        line = [
            _cell(
                queries, row["query"], f"query, {rank_of_first_match} before" if rank_of_first_match else "query", INK
            )
        ]
        for nearest, right, cosine in zip(row["nearest"], row["right"], row["cosine"], strict=True):
            mark, color = ("✓", RIGHT) if right else ("✗", WRONG)
            line.append(_cell(gallery, nearest, f"{mark} {cosine:.3f}", color))
        lines.append(line)
    return draw_grid(lines, LOOK)


def _cell(images: ShardedImages, row: int, text: str, color: str) -> Cell:
    return Cell(LOOK.small(images.read_single(row)), (text, images.class_names[images.labels[row]]), color)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
