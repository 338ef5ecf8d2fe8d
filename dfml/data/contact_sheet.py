"""A contact sheet: some images of a split side by side, each with its class, to see at a glance what was packed."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from dfml.data.dataset import ShardedImages
from dfml.image_grid import Cell, Look, draw_grid

LOOK = Look(side=144, gap=6, text=11)


def contact_sheet(images: ShardedImages, count: int, seed: int) -> Image.Image:
    """Draw up to `count` images, chosen at random and shown by class. Of shards that aren't at hand only these images are fetched."""
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    rows = rows[np.argsort(images.labels[rows], kind="stable")]
    cells = [Cell(LOOK.small(images.glance(row)), (images.class_names[images.labels[row]],)) for row in rows.tolist()]
    columns = math.ceil(math.sqrt(len(cells) * 1.5))
    return draw_grid([cells[start : start + columns] for start in range(0, len(cells), columns)], LOOK)
