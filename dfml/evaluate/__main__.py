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
from dfml.data.datasets import recall_at
from dfml.data.manifest import read_manifest
from dfml.data.shards import ShardedImages
from dfml.data.split import subset_of_classes
from dfml.errors import InvalidInput
from dfml.evaluate.scoring import embed, full_score
from dfml.metrics import retrieval_metrics


def evaluate(arguments: argparse.Namespace) -> dict[str, float]:
    """The metrics by name.

    Raises:
        InvalidInput: there is no such model or data set.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(arguments.resume).to(device)
    data = data_folder(arguments.dataset, arguments.data, arguments.data_root)
    workers = arguments.workers if arguments.workers is not None else 4 * (device.type == "cuda")

    def embedded(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = ShardedImages(data, split)
        embedder = lambda batch: model(batch, arguments.path)  # noqa: E731
        found = embed(embedder, subset_of_classes(images), model.recipe, model.normalisation, device, workers)
        return found, torch.from_numpy(images.labels).to(device)

    at = recall_at(arguments.dataset)
    if "gallery" in read_manifest(data).splits:
        queries, query_labels = embedded("query")
        gallery, gallery_labels = embedded("gallery")
        return retrieval_metrics(queries, query_labels, gallery, gallery_labels, at)
    embeddings, _ = embedded("test")
    return full_score(embeddings, subset_of_classes(ShardedImages(data, "test")), at, model.recipe.seed)


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
