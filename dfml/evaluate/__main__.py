"""`python -m dfml.evaluate`: score a trained model on a data set's test classes, or its queries against its gallery."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dfml.checkpoint import load
from dfml.commands import data_folder, print_metrics
from dfml.errors import InvalidInput
from dfml.evaluate.final import metrics_on_test


def evaluate(arguments: argparse.Namespace) -> dict[str, float]:
    """The metrics by name.

    Raises:
        InvalidInput: there is no such model or data set.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(arguments.resume).to(device)
    data = data_folder(arguments.dataset, arguments.data, arguments.data_root)
    workers = arguments.workers if arguments.workers is not None else 4 * (device.type == "cuda")
    return metrics_on_test(model, data, device, workers, arguments.path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that can't be used."""
    parser = argparse.ArgumentParser(prog="python -m dfml.evaluate", description=__doc__)
    add = parser.add_argument
    add(
        "--resume", required=True, metavar="DIR", help="a model: the best/ folder of a run or a sweep, or its s3:// URI"
    )
    add("--dataset", default="cub", help="as for dfml.train (default: %(default)s)")
    add("--data-root", type=Path, default=Path("data"), metavar="DIR", help="as for dfml.train (default: %(default)s)")
    add("--data", metavar="DIR", help="a packed data set, in place of --data-root")
    add(
        "--path",
        choices=("full", "routed"),
        default="full",
        help="through all sub-blocks or the chosen ones (default: %(default)s)",
    )
    add("--workers", type=int, metavar="N", help="processes that load images (default: 4 with a GPU, else none)")
    add("--json", action="store_true", help="print the metrics as JSON")
    arguments = parser.parse_args(argv)
    try:
        metrics = evaluate(arguments)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(metrics))
    else:
        print_metrics(f"{arguments.dataset}, {arguments.path} path of {arguments.resume}", metrics)
    return 0


if __name__ == "__main__":
    sys.exit(main())
