"""What all commands share: bad input is one sentence and exit code 2, and `--help` names units and defaults. Needs no torch."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from dfml import s3, storage
from dfml.errors import InvalidInput
from dfml.s3 import Unreachable

INVALID = 2
UNREACHABLE = 1
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """Raises `InvalidInput` for flags that can't be used, and says each flag's default where there is one."""

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
    """A flag's type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small: give 1 or more")
    return value


def byte_count(text: str) -> int:
    """A flag's type: bytes, such as 500MB, 1.5TB, 64GiB or 1000000."""
    found = re.fullmatch(r"([0-9.]+) *([kmgt]?)(i?)b?", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes: give for example 200GB")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2] or " "))


def add_cache_flags(group: argparse._ActionsContainer) -> None:
    """Where a data set on S3 is kept on each node."""
    group.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="folder on each node's disk for what is fetched from S3, shared by all runs there (default: $DFML_CACHE or ~/.cache/dfml)",
    )
    group.add_argument(
        "--cache-size",
        type=byte_count,
        metavar="BYTES",
        help="most that it may hold, e.g. 200GB; less than the data set shuffles within as many shards as fit (default: no limit)",
    )


def assignment(text: str) -> tuple[str, Any]:
    """A name and a value from "NAME=VALUE", the value as YAML reads it.

    Raises:
        InvalidInput: it isn't of that form.
    """
    name, equals, value = text.partition("=")
    try:
        if equals and name:
            return name, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise InvalidInput(f"--set {text!r} isn't NAME=VALUE: give for example --set lr=3e-4")


def check_out(out: str, example: str) -> None:
    """Before any work is done for it: see that a file can be written to `--out`.

    Args:
        out: its place, absolute.
        example: a name that such a file may have.

    Raises:
        InvalidInput: it can't, or the place is a folder's, or a bucket.
    """
    if out.startswith(s3.PREFIX):
        if not s3.names_object(out):
            raise InvalidInput(
                f'--out {out} names no file on S3: give a key that doesn\'t end in "/", such as {storage.join(out, example)}'
            )
    elif Path(out).is_dir():
        raise InvalidInput(f"--out {out} is a folder: name a file, such as {storage.join(out, example)}")
    storage.check_writable(out.rpartition("/")[0] or "/")


def exit_code(work: Callable[[], int | None]) -> int:
    """Do a command's work: its own exit code, 0 where it gives none, 2 for input that can't be used, said in one sentence."""
    try:
        return work() or 0
    except InvalidInput as error:
        complain(error)
        return INVALID
    except Unreachable as error:
        complain(error)
        return UNREACHABLE


def complain(error: Exception) -> None:
    """Say on standard error what went wrong; of torchrun's processes one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {error}", file=sys.stderr)
