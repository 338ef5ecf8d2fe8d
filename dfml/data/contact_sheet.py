"""A contact sheet: some images of a split side by side, each with its class, to see at a glance what was packed."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dfml.data.dataset import ShardedImages

CELL, CAPTION, GAP = 144, 18, 6  # pixels


def contact_sheet(images: ShardedImages, count: int, seed: int) -> Image.Image:
    """Draw up to `count` images, chosen at random and shown by class. Of shards that aren't at hand only these images are fetched."""
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    rows = rows[np.argsort(images.labels[rows], kind="stable")]
    columns = math.ceil(math.sqrt(len(rows) * 1.5))
    lines = math.ceil(len(rows) / columns)
    sheet = Image.new("RGB", (columns * (CELL + GAP) + GAP, lines * (CELL + CAPTION + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    # Comes with matplotlib; Pillow's own has Latin letters only.
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 11)
    for place, row in enumerate(rows.tolist()):
        x = GAP + place % columns * (CELL + GAP)
        y = GAP + place // columns * (CELL + CAPTION + GAP)
        picture = ImageOps.contain(images.glance(row), (CELL, CELL))
        sheet.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))
        draw.text((x, y + CELL + 2), _fitting(images.class_names[images.labels[row]], font), "black", font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= CELL:
        return text
    while text and font.getlength(text + "…") > CELL:
        text = text[:-1]
    return text + "…"
