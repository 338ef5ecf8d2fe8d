"""The reader of a user's own images from a CSV file with one line per image."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dfml.data.packing.readers.annotations import decoded
from dfml.data.packing.readers.checks import SPLITS, check_sources, path_inside
from dfml.data.packing.readers.files import file_source
from dfml.data.packing.readers.folder import divide_classes
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

Row = tuple[str, str, str, str]  # source, path, label, split ("" if the table has none)


def read_table(table: Path, root: Path | None = None, test_share: float = 0.5, seed: int = 0) -> list[ImageSource]:
    """Return the images that a table names, in its order.

    Args:
        table: a UTF-8 file with a line of headings: `path`, `label` and, optionally, `split`
            (train, test, query or gallery). If `split` is missing, `divide_classes` divides the
            classes. Other columns are ignored.
        root: the folder that the paths are relative to; None: the table's own folder.
        test_share: the share of the classes that are kept for test, 0 … 1.
        seed: the seed of the random choice of test classes.

    Raises:
        InvalidInput: the table is missing or malformed, names an image that is missing, outside
            `root` or named twice, or has a class of one image, so retrieval is undefined.
    """
    root = table.parent if root is None else root
    rows = list(_rows(table))
    if not rows:
        raise InvalidInput(f"{table} has no rows; give a line of headings, path and label, and one line per image")
    _check_findable(rows)
    if not rows[0][3]:
        labels = {label for _, _, label, _ in rows}
        divided = divide_classes(labels, test_share, seed, f"{table} has {len(labels)} classes")
        rows = [(source, path, label, divided[label]) for source, path, label, _ in rows]
    return check_sources(_images(rows, root), table)


def _rows(table: Path) -> Iterator[Row]:
    if not table.is_file():
        raise InvalidInput(f"{table} is not a file; give a CSV file with columns path, label and, optionally, split")
    lines = csv.reader(io.StringIO(decoded(table.read_bytes(), table), newline=""), strict=True)
    # The first line of a row: a quoted field may span several lines.
    first = 1
    try:
        columns = next(lines, [])
        missing = [column for column in ("path", "label") if column not in columns]
        if columns and missing:
            raise InvalidInput(f"line 1 of {table} has columns {columns}, not {missing[0]!r}; add it after a comma")
        first = lines.line_num + 1
        for fields in lines:
            if fields:  # not a blank line
                yield _row(fields, columns, f"line {first} of {table}")
            first = lines.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"line {first} of {table} is not CSV ({error}); fix it") from error


def _row(fields: list[str], columns: list[str], source: str) -> Row:
    if len(fields) != len(columns):
        raise InvalidInput(f"{source} has {len(fields)} fields, but there are {len(columns)} headings; give as many")
    row = dict(zip(columns, fields, strict=True))
    path, label, split = path_inside(row["path"], source), row["label"].strip(), row.get("split", "").strip()
    if path == "." or not label:
        raise InvalidInput(f"{source} has no {'label' if not label else 'path'}; give one, or remove the line")
    if "split" in columns and split not in SPLITS:
        raise InvalidInput(f"{source} has split {split!r}; give one of {', '.join(SPLITS)}")
    return source, path, label, split


def _check_findable(rows: list[Row]) -> None:
    images = Counter(label for _, _, label, _ in rows)
    gallery = {label for _, _, label, split in rows if split == "gallery"}
    for source, path, label, split in rows:
        if (label not in gallery) if split == "query" else (split != "gallery" and images[label] < 2):
            raise InvalidInput(
                f"{source} has {path!r} of class {label!r}, which has no other image"
                f"{' in the gallery' * (split == 'query')}; add one, or remove the line"
            )


def _images(rows: list[Row], root: Path) -> Iterator[ImageSource]:
    sources_of: dict[str, str] = {}
    top = root.resolve()
    for source, path, label, split in rows:
        if path in sources_of:
            raise InvalidInput(f"{source} has path {path!r}, which {sources_of[path]} has, too; remove one of the two")
        sources_of[path] = source
        if not (root / path).resolve().is_relative_to(top):
            raise InvalidInput(
                f"{source} has path {path!r}, a link that leads out of {root}; put the image itself there"
            )
        yield file_source(root / path, path, label, split, source)
