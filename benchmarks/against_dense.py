"""Measure whether factorization helps: train on the same images and seeds with and without it.

    python benchmarks/against_dense.py [--dataset emoji] [--seeds 0 1 2] [--epochs 3]
        [--also balance_weight=0.01]

Factorized: the recipe of the search space's first trial. Dense: the same recipe with one sub-block
per block and no routed path, which is plain metric learning. `--also` adds a variant of the
factorized recipe. All variants start from the same pretrained weights, train on all training
classes for the same number of epochs and are scored on the test classes after the last epoch, so
nothing is selected.

Print the mean and the 95 % interval (Student's t) over the seeds, also of the differences from
dense by seed, and write against_dense.json next to this file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.stats import t

from dfml.command_line import assignment
from dfml.data.datasets import REPOSITORY, locate, recall_at
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.evaluate import score
from dfml.recipe import Recipe, recipe_from
from dfml.train import Training

METRICS = ("recall_at_1", "r_precision", "map_at_r")


def run(recipe: Recipe, data: Path, dataset: str) -> dict[str, float]:
    """Train a recipe and return its test metrics, the seconds of training and router statistics."""
    began = time.perf_counter()
    test = subset_of_classes(ShardedImages(data, "test"))
    training = Training(recipe, subset_of_classes(ShardedImages(data, "train")), None, torch.device("cpu"))
    for metrics in training.epochs():
        collapsed = (
            f"  {metrics['routers_collapsed']:.0f} routers collapsed" if metrics.get("routers_collapsed") else ""
        )
        print(f"    epoch {metrics['epoch']}  loss {metrics['loss']:.2f}{collapsed}", flush=True)
    trained = time.perf_counter() - began
    routers = {name: training.metrics[name] for name in training.metrics if name.startswith("router")}
    return {**score(training.embed(test), test, recall_at(dataset)), "train_seconds": trained, **routers}


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval."""
    spread = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="emoji")
    parser.add_argument("--data", help="a packed data set; needed unless --dataset ships with the project")
    parser.add_argument("--search-space", type=Path, help="default: search_spaces/<dataset>.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="default: the search space's")
    parser.add_argument("--also", metavar="NAME=VALUE", help="change one value of the recipe in a third variant")
    arguments = parser.parse_args()
    data = locate(arguments.dataset, arguments.data)
    space = yaml.safe_load(
        (arguments.search_space or REPOSITORY / f"search_spaces/{arguments.dataset}.yaml").read_text()
    )
    base: dict[str, Any] = {**space["recipe"], **space["first"][0]}
    if arguments.epochs is not None:
        base["epochs"] = arguments.epochs
    kinds = {"dense": {**base, "num_sub_blocks": 1, "routed_weight": 0.0}, "factorized": base}
    if arguments.also is not None:
        kinds[f"factorized, {arguments.also}"] = base | dict([assignment(arguments.also)])
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for seed in arguments.seeds:
        for kind, values in kinds.items():
            print(f"{kind}, seed {seed}", flush=True)
            found[kind].append(run(recipe_from({**values, "seed": seed}), data, arguments.dataset))
    print(
        f"\n{arguments.dataset}, {base['backbone']}, {base['epochs']} epochs, {len(arguments.seeds)} seeds: "
        "mean ± 95 % interval\n"
    )
    print("| | R@1 | R-precision | MAP@R | seconds of training |\n| --- | ---: | ---: | ---: | ---: |")
    columns = (*METRICS, "train_seconds")
    for kind in kinds:
        cells = [interval([one[name] for one in found[kind]]) for name in columns]
        print(f"| {kind} | " + " | ".join(f"{m:.4f} ± {h:.4f}" for m, h in cells[:-1]) + f" | {cells[-1][0]:.0f} |")
    for kind in [kind for kind in kinds if kind != "dense"]:
        pairs = list(zip(found[kind], found["dense"], strict=True))
        cells = [interval([a[name] - b[name] for a, b in pairs]) for name in METRICS]
        print(f"| {kind} minus dense | " + " | ".join(f"{m:+.4f} ± {h:.4f}" for m, h in cells) + " | |")
    content = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "recipe": base, "found": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
