"""Pictures in rows, each with a caption and, if you like, a coloured frame: what was packed, or a query beside its nearest images."""

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
    """One picture of a grid.

    Attributes:
        image: RGB; None draws an empty field with `missing` in it.
        caption: lines below it, the first in bold where there are several; each is shortened to the picture's width.
        frame: its colour, as Pillow knows colours; None for no frame.
        missing: a word for why there is no image.
    """

    image: Image.Image | None
    caption: tuple[str, ...] = ()
    frame: str | None = None
    missing: str = ""


@dataclass(frozen=True)
class Look:
    """Measures of a grid, in pixels.

    Attributes:
        side: of the square that a picture is fitted into.
        gap: between pictures, and around them all.
        text: size of the font.
        frame: width of a frame.
        apart: what the first column stands apart from the others, with a line in between; 0: not at all.
    """

    side: int = 160
    gap: int = 14
    text: int = 13
    frame: int = 3
    apart: int = 0

    def small(self, image: Image.Image) -> Image.Image:
        """All of an image that drawing it needs, so that not every photograph of a grid is in memory in full."""
        return ImageOps.contain(image, (2 * self.side, 2 * self.side))

    def caption(self, lines: int) -> int:
        """Height of a caption."""
        return round(self.text * (LINE * lines + 0.4)) if lines else 0


def draw_grid(rows: Sequence[Sequence[Cell]], look: Look = Look()) -> Image.Image:
    """Draw rows of cells, which may be of different lengths, on white.

    Args:
        rows: at least one cell in all.
        look: sizes.
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
        room = side - 2 * (rim + 2 if rim else 0)  # a white line, so that no frame runs into a picture of its colour
        picture = ImageOps.contain(cell.image, (room, room), Image.Resampling.LANCZOS)
        grid.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
    if rim:
        draw.rectangle((x, y, x + side - 1, y + side - 1), outline=cell.frame, width=rim)
    for number, line in enumerate(cell.caption):
        first = number == 0
        font = _font(look.text, bold=first and len(cell.caption) > 1)
        place = (x, y + side + round(look.text * (0.4 + LINE * number)))
        draw.text(place, _fitting(line, font, side), INK if first else FAINT, font)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # Comes with matplotlib; Pillow's own has Latin letters only.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or its two ends: of a path both the folder and the file's ending say something."""
    text = " ".join(text.split())  # a file's name may hold a line break
    kept = len(text)
    short = text
    while kept and font.getlength(short) > width:
        kept -= 1
        short = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    return short
