"""Decoding: any image that Pillow opens becomes an upright RGB image."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dfml.data.format.images import UNDECODABLE, decode, to_rgb
from tests.images import (
    BAD,
    animated,
    bilevel,
    cmyk,
    encoded,
    grey,
    half_transparent,
    palette_with_transparency,
    picture,
    sixteen_bit,
    turned_by_exif,
)


@pytest.mark.parametrize(
    ("image", "first", "last"),
    [
        (grey, (100, 100, 100), (100, 100, 100)),
        (palette_with_transparency, (255, 255, 255), (0, 0, 255)),  # transparent pixels become white
        (half_transparent, (204, 204, 204), (204, 204, 204)),
        (cmyk, (0, 255, 255), (0, 255, 255)),
        (bilevel, (255, 255, 255), (255, 255, 255)),
        (sixteen_bit, (100, 100, 100), (100, 100, 100)),  # the upper byte: 0x64 of 0xff
        (animated, (0, 255, 0), (0, 255, 0)),  # its first frame
    ],
)
def test_any_kind_of_image_becomes_rgb(
    image: Callable[[], bytes], first: tuple[int, ...], last: tuple[int, ...]
) -> None:
    decoded = decode(image())
    assert decoded.mode == "RGB"
    assert decoded.getpixel((0, 0)) == pytest.approx(first, abs=2)
    assert decoded.getpixel((3, 3)) == pytest.approx(last, abs=2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_very_pixels(kind: str) -> None:
    assert np.array_equal(np.asarray(decode(encoded(picture(3), kind))), np.asarray(picture(3)))


def test_photograph_gives_what_pillow_gives() -> None:
    jpeg = encoded(picture(), "JPEG")
    with Image.open(io.BytesIO(jpeg)) as image:
        assert np.array_equal(np.asarray(decode(jpeg)), np.asarray(image))


def test_photograph_turned_by_exif_stands_upright() -> None:
    upright = decode(turned_by_exif())
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) == pytest.approx((255, 0, 0), abs=3)
    assert upright.getpixel((4, 13)) == pytest.approx((0, 0, 255), abs=3)


@pytest.mark.parametrize("image", [turned_by_exif, palette_with_transparency, sixteen_bit, cmyk, half_transparent])
def test_what_is_upright_rgb_already_stays_so(image: Callable[[], bytes]) -> None:
    once = decode(image())
    assert np.array_equal(np.asarray(to_rgb(once)), np.asarray(once))


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_no_whole_image_is_undecodable(content: bytes) -> None:
    with pytest.raises(UNDECODABLE):
        decode(content)
