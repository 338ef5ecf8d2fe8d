"""Retrievals as pictures: a row a query, its nearest images beside it, right and wrong ones told apart by colour and mark."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dfml.data.cache import Cache
from dfml.data.dataset import ShardedImages
from dfml.data.evaluation_set import splits_for_test
from dfml.data.manifest import read_manifest
from orchestration.results.style import INK, RIGHT, WRONG
from orchestration.results.summary import Results
from orchestration.trials.shown import picture_of

CELL, FRAME, CAPTION, GAP = 168, 5, 40, 14  # pixels, twice of what a page shows

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
    columns = 1 + max(len(row["nearest"]) for row in rows)
    width, height = CELL + GAP, CELL + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + 2 * GAP, len(rows) * height + GAP), "white")
    for line, row in enumerate(rows):
        top = GAP + line * height
        place = row.get("place")
        below = f"query, {place} before" if place else "query"
        _cell(sheet, GAP, top, queries, row["query"], INK, below)
        for i, (nearest, right, cosine) in enumerate(zip(row["nearest"], row["right"], row["cosine"], strict=True), 1):
            mark, colour = ("✓", RIGHT) if right else ("✗", WRONG)
            _cell(sheet, 2 * GAP + i * width, top, gallery, nearest, colour, f"{mark} {cosine:.3f}")
    return sheet


def _cell(sheet: Image.Image, x: int, y: int, images: ShardedImages, row: int, colour: str, text: str) -> None:
    """An image in a frame, its class and a line of text below."""
    draw = ImageDraw.Draw(sheet)
    picture = ImageOps.contain(images.glance(row), (CELL - 2 * FRAME, CELL - 2 * FRAME))
    sheet.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))
    draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline=colour, width=FRAME)
    draw.text((x, y + CELL + 3), text, colour, _font())
    draw.text((x, y + CELL + 21), _fitting(images.class_names[images.labels[row]]), INK, _font())


def _font() -> ImageFont.FreeTypeFont:
    """matplotlib's: Pillow's own has no marks, and Latin letters only."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 14)


def _fitting(text: str) -> str:
    font = _font()
    if font.getlength(text) <= CELL:
        return text
    while text and font.getlength(text + "…") > CELL:
        text = text[:-1]
    return text + "…"


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
