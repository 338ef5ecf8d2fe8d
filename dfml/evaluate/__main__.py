"""`python -m dfml.evaluate`: score a trained model on test classes, or on queries and a gallery.

It runs alone or under torchrun.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dfml.command_line import Parser, add_cache_flags, exit_code
from dfml.commands import cache_of, data_uri, loader_workers, print_metrics, print_rank0, processes
from dfml.embedding_model import EmbeddingModel, build_model
from dfml.evaluate.final import metrics_on_test
from dfml.pretrained import read_weights
from dfml.published_layout import sub_blocks_in
from dfml.recipe import recipe_from
from dfml.saved_model import load


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m dfml.evaluate", description=__doc__)
    add = made.add_argument
    add(
        "--resume",
        required=True,
        metavar="PLACE",
        help="the model: the best/ folder of a run or a sweep, its s3:// URI, or a file of weights from timm, "
        "the publication's train.py or dfml.convert",
    )
    add("--model", default="deit_small_distilled_patch16_224", help="for a file of weights: its timm model")
    add("--image-size", type=int, default=224, metavar="PIXELS", help="for a file of weights: the side of its images")
    add("--dataset", default="cub", help="as for dfml.train")
    add("--data-root", type=Path, default=Path("data"), metavar="DIR", help="as for dfml.train")
    add("--data", metavar="DIR-or-S3", help="a packed data set, instead of --data-root")
    add_cache_flags(made)
    add(
        "--path",
        choices=("full", "routed"),
        help="all sub-blocks (full) or the chosen ones (routed) (default: the recipe's path)",
    )
    add("--workers", type=int, metavar="N", help="image-loading workers per process (default: 4 with a GPU, else none)")
    add("--json", action="store_true", help="print the metrics as JSON")
    return made


def model_at(uri: str, backbone: str, image_size: int) -> EmbeddingModel:
    """Load a trained model: one of this project, or a backbone from a file of weights.

    Raises:
        InvalidInput: there is no model at `uri`.
    """
    if not Path(uri).is_file():
        return load(uri)
    # Dense weights are one sub-block.
    num_sub_blocks = sub_blocks_in(read_weights(Path(uri))) or 1
    values = {"backbone": backbone, "weights": uri, "image_size": image_size, "num_sub_blocks": num_sub_blocks}
    return build_model(recipe_from(values)).eval()


def evaluate(arguments: argparse.Namespace) -> None:
    with processes() as device:
        model = model_at(arguments.resume, arguments.model, arguments.image_size).to(device)
        workers = loader_workers(arguments.workers, device)
        metrics = metrics_on_test(model, data_uri(arguments), device, workers, arguments.path, cache_of(arguments))
        if arguments.json:
            print_rank0(json.dumps(metrics))
        else:
            path = arguments.path or model.recipe.inference
            print_metrics(f"{arguments.dataset}, {path} path of {arguments.resume}", metrics)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 2 means invalid input."""
    return exit_code(lambda: evaluate(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
