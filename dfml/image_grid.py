"""Grids of images with captions and optional frames, such as queries with their nearest images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

LINE = 1.35  # height of a line of text, in font sizes
INK, FAINT, PAPER = "#1f2328", "#6b7280", "#f3f4f6"


@dataclass(frozen=True)
class Cell:
    """One image of a grid.

    Attributes:
        image: the RGB image; None: draw an empty field with the text `missing`.
        caption: the lines below it, each shortened to its width; the first of several is bold.
        frame: the color of the frame in Pillow's notation; None: no frame.
        missing: a word on why there is no image.
    """

    image: Image.Image | None
    caption: tuple[str, ...] = ()
    frame: str | None = None
    missing: str = ""


@dataclass(frozen=True)
class Look:
    """The dimensions of a grid, in pixels.

    Attributes:
        side: the side of the square that an image is fitted into.
        gap: the gap between images, and around the grid.
        text: the font size.
        frame: the width of a frame.
        apart: the extra gap after the first column, with a line in it; 0: neither.
    """

    side: int = 160
    gap: int = 14
    text: int = 13
    frame: int = 3
    apart: int = 0

    def small(self, image: Image.Image) -> Image.Image:
        """Resize an image to twice its size in the grid, so that no large one stays in memory."""
        return ImageOps.contain(image, (2 * self.side, 2 * self.side))

    def caption(self, lines: int) -> int:
        """Return the height of a caption."""
        return round(self.text * (LINE * lines + 0.4)) if lines else 0


def draw_grid(rows: Sequence[Sequence[Cell]], look: Look = Look()) -> Image.Image:
    """Draw rows of cells, which may differ in length, on white.

    Args:
        rows: the rows, with at least one cell in all.
        look: the dimensions.
    """
    step = look.side + look.gap
    columns = max(len(row) for row in rows)
    lines = max((len(cell.caption) for row in rows for cell in row), default=0)
    height = look.side + look.caption(lines) + look.gap
    apart = look.apart if columns > 1 else 0
    grid = Image.new("RGB", (look.gap + columns * step + apart, look.gap + len(rows) * height), "white")
    draw = ImageDraw.Draw(grid)
    for line, row in enumerate(rows):
        y = look.gap + line * height
        for column, cell in enumerate(row):
            _draw(grid, draw, cell, look.gap + column * step + apart * (column > 0), y, look)
    if apart:
        x = step + (look.gap + apart) // 2
        draw.line((x, look.gap, x, grid.height - look.gap), "#d0d7de", 1)
    return grid


def _draw(grid: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, x: int, y: int, look: Look) -> None:
    side, rim = look.side, look.frame if cell.frame is not None else 0
    if cell.image is None:
        draw.rectangle((x, y, x + side - 1, y + side - 1), PAPER)
        draw.text((x + side // 2, y + side // 2), cell.missing, FAINT, _font(look.text), anchor="mm")
    else:
        # A white line separates the frame from an image of the same color.
        room = side - 2 * (rim + 2 if rim else 0)
        picture = ImageOps.contain(cell.image, (room, room), Image.Resampling.LANCZOS)
        grid.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
    if rim:
        draw.rectangle((x, y, x + side - 1, y + side - 1), outline=cell.frame, width=rim)
    for number, line in enumerate(cell.caption):
        first = number == 0
        font = _font(look.text, bold=first and len(cell.caption) > 1)
        position = (x, y + side + round(look.text * (0.4 + LINE * number)))
        draw.text(position, _fitting(line, font, side), INK if first else FAINT, font)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # DejaVu comes with matplotlib; Pillow's own font has Latin letters only.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text, shortened in the middle: both ends of a path are informative."""
    text = " ".join(text.split())  # file names may contain line breaks
    kept = len(text)
    short = text
    while kept and font.getlength(short) > width:
        kept -= 1
        short = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    return short
