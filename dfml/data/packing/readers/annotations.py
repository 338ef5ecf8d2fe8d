"""Reading of annotation files (text or MATLAB), with errors that name the line."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dfml.errors import InvalidInput


def decoded(content: bytes, file: Path | str) -> str:
    """Decode UTF-8 text with or without a byte order mark.

    Raises:
        InvalidInput: the content isn't UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"line {line} of {file} is not UTF-8; save the file as UTF-8 text") from error


def annotation_lines(content: bytes, file: Path | str, columns: str, headings: int) -> Iterator[tuple[str, list[str]]]:
    """Yield each line's position, for messages, and its fields; skip blank lines.

    Args:
        content: the file's content.
        file: the file's name, for messages.
        columns: the names of the fields, separated by white space.
        headings: the number of heading lines to skip.

    Raises:
        InvalidInput: a line has a different number of fields, or the text isn't UTF-8.
    """
    names = columns.split()
    for number, line in enumerate(decoded(content, file).splitlines(), start=1):
        fields = line.split()
        if number > headings and fields:
            if len(fields) != len(names):
                raise InvalidInput(
                    f"line {number} of {file} has {len(fields)} fields, not the {len(names)} of {columns!r}; "
                    "fix the line, or download the file again"
                )
            yield f"line {number} of {file}", fields


def class_number(value: Any, source: str) -> int:
    """Convert a class number to int.

    Raises:
        InvalidInput: the value isn't an integer.
    """
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            f"{source} has class number {str(value)!r}, which is not an integer; fix it, or download the file again"
        ) from error


def matlab_arrays(content: bytes, file: Path | str, **fields: tuple[str, ...]) -> list[Any]:
    """Return variables of a .mat file, each as a one-dimensional array.

    Args:
        content: the file's content.
        file: the file's name, for messages.
        **fields: the required struct fields of each variable, by its name; empty if it holds no
            structs.

    Raises:
        InvalidInput: the content isn't a .mat file, or a variable or field is missing.
    """
    # Imported here because few data sets need SciPy.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(io.BytesIO(content), squeeze_me=True)
    except (ValueError, TypeError, IndexError, NotImplementedError, OSError, MatReadError, zlib.error) as error:
        raise InvalidInput(f"{file} can't be read as a MATLAB file ({error}); download it again") from error
    arrays = []
    for name, needed in fields.items():
        array = variables[name].reshape(-1) if name in variables else None
        if array is None or set(needed) - set(array.dtype.names or ()):
            lacking = f"{name} with fields {', '.join(needed)}" if needed else name
            raise InvalidInput(f"{file} has no variable {lacking}; download it again")
        arrays.append(array)
    return arrays
