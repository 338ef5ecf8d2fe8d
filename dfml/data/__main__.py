"""`python -m dfml.data pack`: a folder of images to a packed data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dfml.data.folder import read_folder
from dfml.data.imagenet import read_imagenet
from dfml.data.shards import pack
from dfml.errors import InvalidInput


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that can't be used."""
    parser = argparse.ArgumentParser(prog="python -m dfml.data", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("pack", help="pack a folder with one subfolder a class")
    command.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder with one subfolder a class")
    command.add_argument(
        "--layout",
        choices=("classes", "imagenet"),
        default="classes",
        help="classes: one subfolder a class, some classes kept for test; imagenet: train/ and val/ with the same classes "
        "(default: %(default)s)",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where shards and manifest.json go")
    command.add_argument(
        "--dataset", default="mine", metavar="NAME", help="name of the data set (default: %(default)s)"
    )
    command.add_argument(
        "--test-share",
        type=float,
        default=0.5,
        metavar="F",
        help="share of classes kept for test, 0 to 1 (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="decides which classes are for test (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        imagenet = arguments.layout == "imagenet"
        rows = (
            read_imagenet(arguments.root)
            if imagenet
            else read_folder(arguments.root, arguments.test_share, arguments.seed)
        )
        manifest = pack(rows, arguments.out, arguments.dataset)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, split in manifest.splits.items():
        print(f"{name}: {split.rows} images of {split.classes} classes")
    print(f"packed into {arguments.out}; train on it with: python run_sweep.py --dataset {arguments.dataset} "
          f"--data {arguments.out} --search-space search_spaces/{'imagenet' if imagenet else 'emoji'}.yaml")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
