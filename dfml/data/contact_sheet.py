"""A contact sheet of a split: some of its images side by side, each with its class."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from dfml.data.streaming.sharded_images import ShardedImages
from dfml.image_grid import Cell, Look, draw_grid

SHEET_LOOK = Look(side=144, gap=6, text=11)


def contact_sheet(images: ShardedImages, count: int, seed: int) -> Image.Image:
    """Draw up to `count` random images, ordered by class; fetch only these from shards on S3."""
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    rows = rows[np.argsort(images.labels[rows], kind="stable")]
    cells = [
        Cell(SHEET_LOOK.small(images.read_single(row)), (images.class_names[images.labels[row]],))
        for row in rows.tolist()
    ]
    columns = math.ceil(math.sqrt(len(cells) * 1.5))
    return draw_grid([cells[start : start + columns] for start in range(0, len(cells), columns)], SHEET_LOOK)
