"""Build the demo data set *emoji*: each class is one emoji, each image one artist's drawing of it.

Images are 64 x 64 px, on white. Run from the repository's root, with numpy, pillow, pyarrow and
resvg-py installed:

    mkdir -p /tmp/emoji && cp datasets/emoji/package.json /tmp/emoji
    npm install --prefix /tmp/emoji
    PYTHONPATH=. python datasets/emoji/build.py --sources /tmp/emoji/node_modules

It writes manifest.json, and a shard and an index per split, next to itself and prints what it left
out. The same packages and library versions give the same bytes. Sources and licenses:
ATTRIBUTION.md.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from dfml.data.format.shards import ImageRow
from dfml.data.packing.pack import pack

SIZE = 64
# Factor for SVG drawings: at 64 px, resvg renders jagged edges for shapes with filters.
OVERSAMPLING = 4
WEBP_QUALITY = 90
# The order of a class's images.
STYLES = ("fluent", "noto", "noto-v1", "twemoji")
LEAST_DRAWINGS = 3

# The thresholds were chosen by comparing the drawings on both sides of them. A difference is the
# mean absolute difference of pixels (0 to 255).
# Noto v1 and Noto of one emoji: below it, outline and pose are the same and only shading differs.
SAME_DRAWING = 15.0
# Two emoji of one style, at half the size: below it, they differ by a mouth or a few pixels.
SAME_CLASS = 2.0
# Standard deviation of a drawing's pixels: below it, the drawing is light gray on white everywhere.
BLANK = 5.0

# The icon sets use CLDR short names, some from older versions: current name -> names in use there.
OTHER_NAMES = {
    "black bird": ("blackbird",),
    "bullseye": ("direct hit",),
    "deaf person": ("person deaf",),
    "enraged face": ("pouting face",),
    "face with crossed-out eyes": ("dizzy face", "knocked-out face"),
    "keycap #": ("keycap pound", "keycap hashtag"),
    "merperson": ("person merpeople",),
    "people with bunny ears": ("person with bunny ears",),
    "people wrestling": ("person wrestling",),
    "person blond hair": ("person blonde hair",),
    "phoenix": ("phoenix bird",),
    "piñata": ("piata",),
    "red exclamation mark": ("exclamation mark",),
    "red question mark": ("question mark",),
    "red triangle pointed up": ("red triangle",),
    "smiling face with open hands": ("hugging face",),
    "UP! button": ("up exclamation button",),
}

# Variants that can't be recognized by their code points.
GENDER_VARIANT = re.compile(r"(old |pregnant )?(man|woman)|boy|girl|prince(ss)?|(Mrs\.|Mx) Claus|.*men holding hands")
FAMILY = re.compile("family|(kiss|couple with heart) (man|woman)|woman and man holding hands")
MAN, WOMAN, PERSON = 0x1F468, 0x1F469, 0x1F9D1
ZWJ, FEMALE, MALE, RIGHTWARDS = 0x200D, 0x2640, 0x2642, 0x27A1

Code = tuple[int, ...]


@dataclass
class Emoji:
    """A class of the data set.

    Attributes:
        code: the code points.
        name: the CLDR short name.
        drawings: the (64, 64, 3) images by style.
    """

    code: Code
    name: str
    drawings: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def hex(self) -> str:
        return "-".join(f"{point:04x}" for point in self.code)


def kebab(name: str) -> str:
    """Convert a name to the spelling of the icon sets, e.g. "UP! button" -> "up-button"."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("&", "and")).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", plain.replace("#", "hash").replace("*", "asterisk").replace("'", "")).strip("-")


def variant(emoji: Emoji, codes: set[Code]) -> str | None:
    """Return why an emoji is left out as a variant of another one, or None."""
    code = emoji.code
    if GENDER_VARIANT.fullmatch(emoji.name) or FEMALE in code[1:] or MALE in code[1:]:
        return "gender variant"
    if code[0] in (MAN, WOMAN) and ZWJ in code and (PERSON, *code[1:]) in codes:
        return "gender variant"
    if RIGHTWARDS in code[1:]:
        return "mirrored variant"
    if FAMILY.match(emoji.name):
        return "family or couple"
    return None


def on_white(png: bytes) -> np.ndarray:
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(drawing.size)
    white = Image.new("RGBA", (side, side), "white")
    white.alpha_composite(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return np.asarray(white.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


def read_png(sources: Path, vendor: str, emojis: Iterable[Emoji], style: str) -> None:
    """Add the drawings of an emoji-datasource package."""
    package = sources / f"emoji-datasource-{vendor}"
    entries = json.loads((package / "emoji.json").read_text(encoding="utf-8"))
    files = {entry["unified"].lower(): entry["image"] for entry in entries if entry[f"has_img_{vendor}"]}
    for emoji in emojis:
        if emoji.hex in files:
            emoji.drawings[style] = on_white((package / "img" / vendor / str(SIZE) / files[emoji.hex]).read_bytes())


def read_svg(sources: Path, package: str, emojis: list[Emoji], style: str) -> None:
    """Add the drawings of an Iconify set."""
    icons = json.loads((sources / "@iconify-json" / package / "icons.json").read_text(encoding="utf-8"))
    current = {kebab(emoji.name) for emoji in emojis}
    # An alias of an icon that has another emoji's name is wrong, e.g. "cricket" of "cricket game";
    # an alias of a mirrored icon isn't.
    aliases = {
        name: alias
        for name, alias in icons.get("aliases", {}).items()
        if alias["parent"] not in current or alias.get("hFlip")
    }
    for emoji in emojis:
        others = (*OTHER_NAMES.get(emoji.name, ()), f"person {emoji.name}", f"flag for {emoji.name}")
        names = [kebab(emoji.name), *(name for name in map(kebab, others) if name not in current)]
        found = next((name for name in names if name in icons["icons"] or name in aliases), None)
        if found is None:
            continue
        alias = aliases.get(found, {})
        icon = icons["icons"][alias.get("parent", found)]
        width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
        scale = SIZE * OVERSAMPLING / max(width, height)
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        pixels = {"width": round(width * scale), "height": round(height * scale)}
        png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, **pixels)
        drawing = on_white(bytes(png))
        emoji.drawings[style] = drawing[:, ::-1] if alias.get("hFlip") else drawing


def report(what: str, left_out: list[str]) -> None:
    print(f"{what}: {len(left_out)} ({', '.join(left_out[:20])}{', …' if len(left_out) > 20 else ''})")


def read(sources: Path) -> list[Emoji]:
    """Return all emoji that aren't variants, with their drawings, sorted by code points."""
    listed = json.loads((sources / "unicode-emoji-json" / "data-by-emoji.json").read_text(encoding="utf-8"))
    emojis = sorted(
        (Emoji(tuple(map(ord, text)), entry["name"]) for text, entry in listed.items()), key=lambda e: e.code
    )
    codes = {emoji.code for emoji in emojis}
    reasons = {emoji.hex: variant(emoji, codes) for emoji in emojis}
    for reason in ("gender variant", "mirrored variant", "family or couple"):
        report(f"left out, {reason}", [emoji.name for emoji in emojis if reasons[emoji.hex] == reason])
    emojis = [emoji for emoji in emojis if reasons[emoji.hex] is None]
    read_svg(sources, "fluent-emoji", emojis, "fluent")
    read_png(sources, "google", emojis, "noto")
    read_svg(sources, "noto-v1", emojis, "noto-v1")
    read_png(sources, "twitter", emojis, "twemoji")
    return emojis


def drop_blank_drawings(emojis: list[Emoji]) -> None:
    blank = [
        (emoji, style)
        for emoji in emojis
        for style in STYLES
        if style in emoji.drawings and emoji.drawings[style].std() < BLANK
    ]
    for emoji, style in blank:
        del emoji.drawings[style]
    report("drawings left out as nearly blank", [f"{style} {emoji.name}" for emoji, style in blank])


def drop_same_drawings(emojis: list[Emoji]) -> None:
    """Remove Noto v1's drawing if it is nearly the same as Noto's."""
    same = [
        emoji
        for emoji in emojis
        if {"noto", "noto-v1"} <= emoji.drawings.keys()
        and np.abs(emoji.drawings["noto"].astype(int) - emoji.drawings["noto-v1"]).mean() < SAME_DRAWING
    ]
    for emoji in same:
        del emoji.drawings["noto-v1"]
    report("Noto v1 drawings left out, nearly the same as Noto's", [emoji.name for emoji in same])


def enough_drawings(emojis: list[Emoji]) -> list[Emoji]:
    report(
        f"left out, fewer than {LEAST_DRAWINGS} drawings",
        [emoji.name for emoji in emojis if len(emoji.drawings) < LEAST_DRAWINGS],
    )
    return [emoji for emoji in emojis if len(emoji.drawings) >= LEAST_DRAWINGS]


def same_pairs(emojis: list[Emoji], threshold: float) -> Iterator[tuple[int, int, str, float]]:
    """Yield (first row, second row, style, difference) of the emoji that a style draws alike."""
    for style in STYLES:
        rows = [row for row, emoji in enumerate(emojis) if style in emoji.drawings]
        drawings = np.stack([emojis[row].drawings[style] for row in rows]).astype(np.float32)
        small = drawings.reshape(len(rows), SIZE // 2, 2, SIZE // 2, 2, 3).mean((2, 4)).reshape(len(rows), -1)
        for position, row in enumerate(rows):
            differences = np.abs(small[position + 1 :] - small[position]).mean(1)
            for offset in np.flatnonzero(differences < threshold):
                yield row, rows[position + 1 + offset], style, float(differences[offset])


def drop_same_classes(emojis: list[Emoji]) -> list[Emoji]:
    """Keep the first, by code points, of the emoji that some style draws nearly alike."""
    first_of: dict[int, int] = {}
    for first, second, _, _ in sorted(same_pairs(emojis, SAME_CLASS)):
        if first not in first_of:
            first_of.setdefault(second, first)
    report(
        "left out, nearly the same as another class",
        [f"{emojis[second].name} = {emojis[first].name}" for second, first in sorted(first_of.items())],
    )
    return [emoji for row, emoji in enumerate(emojis) if row not in first_of]


def rows_of(emojis: list[Emoji]) -> Iterator[ImageRow]:
    """Yield the rows to pack: a random half of the classes to train on, the others to test on."""
    shuffled = [emoji.code for emoji in emojis]
    random.Random(0).shuffle(shuffled)
    train = set(shuffled[: len(shuffled) // 2])
    for emoji in sorted(emojis, key=lambda emoji: (emoji.code not in train, emoji.code)):
        split = "train" if emoji.code in train else "test"
        for style in (style for style in STYLES if style in emoji.drawings):
            webp = io.BytesIO()
            Image.fromarray(emoji.drawings[style]).save(webp, "WEBP", quality=WEBP_QUALITY, method=6)
            extension = "png" if style in ("noto", "twemoji") else "svg"
            yield ImageRow(webp.getvalue(), f"{emoji.hex} {emoji.name}", f"{style}/{emoji.hex}.{extension}", split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="the node_modules folder that npm filled")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: this one)"
    )
    arguments = parser.parse_args()

    emojis = read(arguments.sources)
    drop_blank_drawings(emojis)
    drop_same_drawings(emojis)
    emojis = drop_same_classes(enough_drawings(emojis))
    manifest = pack(rows_of(emojis), str(arguments.out), "emoji", overwrite=True)
    print(f"classes: {len(emojis)}, with {dict(Counter(len(emoji.drawings) for emoji in emojis))} drawings")
    print(f"images: {dict(Counter(style for emoji in emojis for style in emoji.drawings))}")
    for split, content in manifest.splits.items():
        print(f"{split}: {content.classes} classes, {content.rows} images")
    for shard in manifest.shards:
        print(f"{shard.file}: {shard.bytes} bytes")


if __name__ == "__main__":
    main()
