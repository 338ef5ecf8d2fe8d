"""`python -m dfml.data pack`: a folder of images to a packed data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dfml.command_line import Parser, exit_code
from dfml.data.folder import read_folder
from dfml.data.imagenet import read_imagenet
from dfml.data.shards import pack


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that can't be used."""
    parser = Parser(prog="python -m dfml.data", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="pack").add_parser("pack", help="pack a folder of images")
    add = command.add_argument
    add("--root", type=Path, required=True, metavar="DIR", help="folder with one subfolder a class")
    add(
        "--layout",
        choices=("classes", "imagenet"),
        default="classes",
        help="classes: one subfolder a class, some classes kept for test; imagenet: train/ and val/ with the same classes",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where shards and manifest.json go")
    add("--dataset", default="mine", metavar="NAME", help="name of the data set")
    add("--test-share", type=float, default=0.5, metavar="F", help="share of classes kept for test, 0 to 1")
    add("--seed", type=int, default=0, metavar="S", help="decides which classes are for test")
    return exit_code(lambda: _pack(parser.parse_args(argv)))


def _pack(arguments: argparse.Namespace) -> None:
    imagenet = arguments.layout == "imagenet"
    rows = (
        read_imagenet(arguments.root) if imagenet else read_folder(arguments.root, arguments.test_share, arguments.seed)
    )
    manifest = pack(rows, arguments.out, arguments.dataset)
    for name, split in manifest.splits.items():
        print(f"{name}: {split.rows} images of {split.classes} classes")
    print(f"packed into {arguments.out}; train on it with: python run_sweep.py --dataset {arguments.dataset} "
          f"--data {arguments.out} --search-space search_spaces/{'imagenet' if imagenet else 'emoji'}.yaml")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
