"""Grids of images, read back pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dfml.image_grid import Cell, Look, draw_grid

LOOK = Look(side=60, gap=10, text=10, frame=3)
RED = Image.new("RGB", (30, 30), "red")


def test_pictures_stand_in_their_cells_and_frames_around_them() -> None:
    wide = Image.new("RGB", (400, 200), "blue")
    grid = draw_grid([[Cell(RED), Cell(wide, frame="#00ff00")], [Cell(wide)]], LOOK)
    assert grid.size == (150, 150)
    pixels = np.asarray(grid)
    assert (pixels[10:70, 10:70] == (255, 0, 0)).all()  # enlarged to its cell
    assert (pixels[10:13, 80:140] == (0, 255, 0)).all()
    assert (pixels[67:70, 80:140] == (0, 255, 0)).all()
    assert (pixels[13:15, 83:137] == 255).all()  # between frame and picture
    assert (pixels[40, 85:135] == (0, 0, 255)).all()
    assert (pixels[80:95, 10:70] == 255).all()  # above a wide picture
    assert (pixels[100:120, 10:70] == (0, 0, 255)).all()
    assert (pixels[75:, 75:] == 255).all()  # no second cell in the second row


def test_an_image_that_is_missing_is_an_empty_field_with_a_word() -> None:
    pixels = np.asarray(draw_grid([[Cell(None, frame="#ff0000", missing="gone")]], LOOK))
    field = pixels[14:66, 14:66]
    assert (field[:15] == field[0, 0]).all()
    assert field[0, 0].min() > 230
    assert (field != field[0, 0]).any()
    without = np.asarray(draw_grid([[Cell(None, frame="#ff0000")]], LOOK))[14:66, 14:66]
    assert (without == without[0, 0]).all()


@pytest.mark.parametrize("caption", ["x" * 300, "a name\nwith a break, that is far too long for its cell", "短い" * 50])
def test_a_caption_stays_below_its_picture(caption: str) -> None:
    grid = np.asarray(draw_grid([[Cell(RED, (caption, caption)), Cell(RED)]], LOOK))
    assert (grid[70:, 10:70] != 255).any()
    assert (grid[70:, 71:] == 255).all()
    short = np.asarray(draw_grid([[Cell(RED, ("x", "x")), Cell(RED)]], LOOK))
    assert grid.shape == short.shape


def test_the_first_column_may_stand_apart() -> None:
    apart = Look(side=60, gap=10, text=10, apart=20)
    grid = np.asarray(draw_grid([[Cell(RED), Cell(RED)]], apart))
    assert grid.shape == (80, 170, 3)
    assert (grid[10:70, 10:70] == (255, 0, 0)).all()
    assert (grid[10:70, 100:160] == (255, 0, 0)).all()
    between = (grid[40, 70:100] != 255).any(axis=1)
    assert between.sum() == 1
