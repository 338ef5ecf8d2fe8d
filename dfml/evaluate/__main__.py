"""`python -m dfml.evaluate`: score a trained model on a data set's test classes, or its queries against its gallery; alone or under torchrun."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dfml.checkpoint import load
from dfml.command_line import Parser, add_cache_flags, exit_code
from dfml.commands import cache_of, data_place, loader_workers, processes, say, say_metrics
from dfml.embedding_model import EmbeddingModel, build_model
from dfml.evaluate.final import metrics_on_test
from dfml.pretrained import read_weights
from dfml.published_layout import routers_in
from dfml.recipe import recipe_from


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m dfml.evaluate", description=__doc__)
    add = made.add_argument
    add(
        "--resume",
        required=True,
        metavar="PLACE",
        help="a model: the best/ folder of a run or a sweep, its s3:// URI, or a file of weights as timm's, the publication's train.py or "
        "dfml.convert write it",
    )
    add("--model", default="deit_small_distilled_patch16_224", help="of a file of weights: its timm model")
    add("--image-size", type=int, default=224, metavar="PIXELS", help="of a file of weights: side of its images")
    add("--dataset", default="cub", help="as for dfml.train")
    add("--data-root", type=Path, default=Path("data"), metavar="DIR", help="as for dfml.train")
    add("--data", metavar="DIR-or-S3", help="a packed data set, in place of --data-root")
    add_cache_flags(made)
    add(
        "--path",
        choices=("full", "routed"),
        help="through all sub-blocks or the chosen ones (default: as its recipe says)",
    )
    add("--workers", type=int, metavar="N", help="processes that load images (default: 4 with a GPU, else none)")
    add("--json", action="store_true", help="print the metrics as JSON")
    return made


def model_at(place: str, backbone: str, image_size: int) -> EmbeddingModel:
    """A trained model: one of this project's, or the backbone whose weights a file holds.

    Raises:
        InvalidInput: there is none.
    """
    if not Path(place).is_file():
        return load(place)
    routers = routers_in(read_weights(Path(place))) or 1  # weights that aren't factorized are their only sub-block
    values = {"backbone": backbone, "weights": place, "image_size": image_size, "routers": routers}
    return build_model(recipe_from(values)).eval()


def evaluate(arguments: argparse.Namespace) -> None:
    with processes() as device:
        model = model_at(arguments.resume, arguments.model, arguments.image_size).to(device)
        workers = loader_workers(arguments.workers, device)
        metrics = metrics_on_test(model, data_place(arguments), device, workers, arguments.path, cache_of(arguments))
        if arguments.json:
            say(json.dumps(metrics))
        else:
            path = arguments.path or model.recipe.inference
            say_metrics(f"{arguments.dataset}, {path} path of {arguments.resume}", metrics)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that can't be used."""
    return exit_code(lambda: evaluate(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
