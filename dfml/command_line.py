"""Command-line helpers for all commands, without torch.

Commands report invalid input in one sentence with exit code 2; `--help` gives units and defaults.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ByteSize, TypeAdapter, ValidationError

from dfml import s3, storage
from dfml.errors import InvalidInput, RunFailed
from dfml.s3 import Unreachable
from dfml.yaml_numbers import YAMLError, parse_yaml

INVALID = 2
FAILED = 1
INTERRUPTED = 130  # a shell's exit code for a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """Raise `InvalidInput` for unusable flags, and print each flag's default in `--help`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"{message}; see {self.prog} --help")


class _Help(argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.help or ""
        unsaid = action.default is not None and action.option_strings and action.nargs != 0 and "(default" not in said
        return f"{said} (default: %(default)s)" if unsaid and action.default != [] else said


def count(text: str) -> int:
    """Parse a whole number of at least 1 (the type of a flag)."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small; give 1 or more")
    return value


def byte_count(text: str) -> int:
    """Parse a number of bytes, such as 500MB, 1.5TB, 64GiB or 1000000 (the type of a flag)."""
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of bytes; give for example 200GB") from error


def add_cache_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags of each node's cache for data sets on S3."""
    group.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="folder on each node's disk for files fetched from S3, shared by all runs on the node "
        "(default: $DFML_CACHE or ~/.cache/dfml)",
    )
    group.add_argument(
        "--cache-size",
        type=byte_count,
        metavar="BYTES",
        help="largest size of the cache, e.g. 200GB; if the data set is larger, images are shuffled within as many "
        "shards as fit (default: no limit)",
    )


def assignment(text: str) -> tuple[str, Any]:
    """Split "NAME=VALUE" into the name and the value, which is parsed as YAML.

    Raises:
        InvalidInput: the text isn't of that form.
    """
    name, equals, value = text.partition("=")
    try:
        if equals and name:
            return name, parse_yaml(value)
    except YAMLError:
        pass
    raise InvalidInput(f"--set {text!r} isn't NAME=VALUE; give for example --set lr=3e-4")


def check_out(out: str, example: str) -> None:
    """Check that a file can be written to `--out`, before any work is done for it.

    Args:
        out: the absolute path, or the URI, of the file.
        example: a name that such a file may have.

    Raises:
        InvalidInput: the file can't be written, or `out` is a folder or a bucket.
    """
    if out.startswith(s3.PREFIX):
        if not s3.names_object(out):
            raise InvalidInput(
                f'--out {out} names no file on S3; give a key that doesn\'t end in "/", '
                f"such as {storage.join(out, example)}"
            )
    elif Path(out).is_dir():
        raise InvalidInput(f"--out {out} is a folder; name a file, such as {storage.join(out, example)}")
    storage.check_writable(out.rpartition("/")[0] or "/")


def exit_code(work: Callable[[], int | None]) -> int:
    """Do the work of a command and return its exit code; print invalid input as one sentence.

    Returns:
        The result of `work` (None: 0), 2 for invalid input, or 1 if the work failed or S3 can't be
        reached.
    """
    try:
        return work() or 0
    except InvalidInput as error:
        print_error(error)
        return INVALID
    except (RunFailed, Unreachable) as error:
        print_error(error)
        return FAILED


def print_error(error: Exception) -> None:
    """Print an error on standard error; under torchrun, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {error}", file=sys.stderr)
