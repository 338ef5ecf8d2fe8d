"""Annotation files, as text or MATLAB's: read whole, and each defect named with its place."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dfml.errors import InvalidInput


def decoded(content: bytes, file: Path | str) -> str:
    """UTF-8 text, with or without a byte order mark.

    Raises:
        InvalidInput: it isn't UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"line {line} of {file} is not UTF-8: save the file as UTF-8 text") from error


def annotation_lines(content: bytes, file: Path | str, columns: str, headings: int) -> Iterator[tuple[str, list[str]]]:
    """Each line's place, for sentences, and its fields; blank lines are passed over.

    Args:
        columns: names of the fields, which white space parts.
        headings: lines above the first to read.

    Raises:
        InvalidInput: a line has another number of fields, or the text isn't UTF-8.
    """
    names = columns.split()
    for number, line in enumerate(decoded(content, file).splitlines(), start=1):
        fields = line.split()
        if number > headings and fields:
            if len(fields) != len(names):
                raise InvalidInput(
                    f"line {number} of {file} has {len(fields)} fields, not the {len(names)} of {columns!r}: "
                    "mend the line, or download the file again"
                )
            yield f"line {number} of {file}", fields


def class_number(value: Any, place: str) -> int:
    """A class's number.

    Raises:
        InvalidInput: it isn't an integer.
    """
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"{place} has class number {str(value)!r}, which is not an integer: mend it, or download the file again"
        ) from error


def matlab_arrays(content: bytes, file: Path | str, **fields: tuple[str, ...]) -> list[Any]:
    """Variables of a .mat file, each as an array of one dimension.

    Args:
        fields: by a variable's name, what its structs have to have; nothing where it holds no structs.

    Raises:
        InvalidInput: it isn't a .mat file, or lacks a variable or field.
    """
    from scipy.io import loadmat  # here, since few sets need it
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(io.BytesIO(content), squeeze_me=True)
    except (ValueError, TypeError, IndexError, NotImplementedError, OSError, MatReadError, zlib.error) as error:
        raise InvalidInput(f"{file} can't be read as a MATLAB file ({error}): download it again") from error
    arrays = []
    for name, needed in fields.items():
        array = variables[name].reshape(-1) if name in variables else None
        if array is None or set(needed) - set(array.dtype.names or ()):
            lacking = f"{name} with fields {', '.join(needed)}" if needed else name
            raise InvalidInput(f"{file} has no variable {lacking}: download it again")
        arrays.append(array)
    return arrays
