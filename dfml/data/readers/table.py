"""Reads a table of one's own images: a CSV file with a line for each."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dfml.data.readers.annotations import decoded
from dfml.data.readers.checks import SPLITS, check_sources, path_inside
from dfml.data.readers.files import file_source
from dfml.data.readers.folder import divide_classes
from dfml.data.source import ImageSource
from dfml.errors import InvalidInput

Row = tuple[str, str, str, str]  # place, path, label, split ("" where the table has none)


def read_table(table: Path, root: Path | None = None, test_share: float = 0.5, seed: int = 0) -> list[ImageSource]:
    """The images that a table names, in its order.

    Args:
        table: UTF-8, under a line of headings: `path`, `label` and, if the split is given, `split`, which is train,
            test, query or gallery. Without it `divide_classes` divides the classes. Other columns are passed over.
        root: what the paths are relative to; the table's own folder if None.
        test_share: of the classes, 0 … 1.
        seed: decides which.

    Raises:
        InvalidInput: the table is missing or malformed, names an image twice, one that isn't there or one outside
            `root`, or has a class with one image, which no other of its class could find.
    """
    root = table.parent if root is None else root
    rows = list(_rows(table))
    if not rows:
        raise InvalidInput(f"{table} has no rows: give a line of headings, path and label, and a line for each image")
    _check_findable(rows)
    if not rows[0][3]:
        labels = {label for _, _, label, _ in rows}
        divided = divide_classes(labels, test_share, seed, f"{table} has {len(labels)} classes")
        rows = [(place, path, label, divided[label]) for place, path, label, _ in rows]
    return check_sources(_images(rows, root), table)


def _rows(table: Path) -> Iterator[Row]:
    if not table.is_file():
        raise InvalidInput(f"{table} is not a file: give a CSV file with columns path, label and, if you like, split")
    lines = csv.reader(io.StringIO(decoded(table.read_bytes(), table), newline=""), strict=True)
    first = 1  # line on which a row begins: a field in quotes may go over several
    try:
        columns = next(lines, [])
        missing = [column for column in ("path", "label") if column not in columns]
        if columns and missing:
            raise InvalidInput(f"line 1 of {table} has columns {columns}, not {missing[0]!r}: add it, parted by commas")
        first = lines.line_num + 1
        for fields in lines:
            if fields:  # not a blank line
                yield _row(fields, columns, f"line {first} of {table}")
            first = lines.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"line {first} of {table} is not CSV ({error}): mend it") from error


def _row(fields: list[str], columns: list[str], place: str) -> Row:
    if len(fields) != len(columns):
        raise InvalidInput(f"{place} has {len(fields)} fields, but there are {len(columns)} headings: give as many")
    row = dict(zip(columns, fields, strict=True))
    path, label, split = path_inside(row["path"], place), row["label"].strip(), row.get("split", "").strip()
    if path == "." or not label:
        raise InvalidInput(f"{place} has no {'label' if not label else 'path'}: give one, or remove the line")
    if "split" in columns and split not in SPLITS:
        raise InvalidInput(f"{place} has split {split!r}: give one of {', '.join(SPLITS)}")
    return place, path, label, split


def _check_findable(rows: list[Row]) -> None:
    images = Counter(label for _, _, label, _ in rows)
    gallery = {label for _, _, label, split in rows if split == "gallery"}
    for place, path, label, split in rows:
        if (label not in gallery) if split == "query" else (split != "gallery" and images[label] < 2):
            raise InvalidInput(
                f"{place} has {path!r} of class {label!r}, which no other image{' of the gallery' * (split == 'query')} "
                "shares: give the class one more, or remove the line"
            )


def _images(rows: list[Row], root: Path) -> Iterator[ImageSource]:
    places: dict[str, str] = {}
    top = root.resolve()
    for place, path, label, split in rows:
        if path in places:
            raise InvalidInput(f"{place} has path {path!r}, which {places[path]} has too: remove one of the two")
        places[path] = place
        if not (root / path).resolve().is_relative_to(top):
            raise InvalidInput(
                f"{place} has path {path!r}, a link that leads out of {root}: put the image itself there"
            )
        yield file_source(root / path, path, label, split, place)
