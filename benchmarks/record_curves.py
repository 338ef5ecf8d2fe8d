"""Record learning curves of real trials, on which benchmarks/search.py measures the search.

    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/record_curves.py --seed 0 [--data URI]

The grid covers benchmarks/curves/emoji.yaml: its choices, and `LEARNING_RATES` in place of its
range. The train loop trains each configuration for all its epochs on `CLASSES` of the emoji's
training classes and scores it on the usual validation classes. benchmarks/curves/emoji-0.json is
written after each trial; a second run resumes with the missing trials. It takes about an hour on
one core.

The standard error of one score is larger than the differences between good configurations, so they
are trained with other seeds too. A configuration that collapsed with seed 0 (its last score is
below half of its first) isn't trained again, on the assumption that it would collapse again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfml.data.datasets import locate
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes, training_and_validation
from dfml.recipe import recipe_from
from dfml.task import SCORE
from dfml.train import Training, TrainingDiverged
from orchestration.search.domains import Choice, ScheduleChoice
from orchestration.search.space import SearchSpace, read_space

CURVES = Path(__file__).parent / "curves"
# Number of classes to train on; few, so that an epoch takes seconds.
CLASSES = 80
SPLIT_SEED = 0
# Share of the first epoch's score below which a trial counts as collapsed.
COLLAPSED = 0.5
LEARNING_RATES = [4.8e-5, 1.2e-4, 3.0e-4, 7.5e-4, 1.875e-3, 4.6875e-3]


def grid(space: SearchSpace) -> list[dict[str, Any]]:
    """Return the recipe values of every configuration to record.

    Rates are the outermost loop, so that the first part of the grid is a grid of fewer rates.
    """
    num_sub_blocks, schedules = space.search["num_sub_blocks"], space.search["schedule"]
    assert isinstance(num_sub_blocks, Choice)
    assert isinstance(schedules, ScheduleChoice)
    kinds = [
        {"kind": kind, **dict(zip(values, point, strict=True))}
        for kind, values in schedules.choice.items()
        for point in itertools.product(*(domain.extremes() for domain in values.values()))
    ]
    return [
        {"num_sub_blocks": k, "lr": lr, "schedule": schedule}
        for lr, schedule, k in itertools.product(LEARNING_RATES, kinds, num_sub_blocks.choice)
    ]


def subsets(data: str) -> tuple[ClassSubset, ClassSubset]:
    """Return some of the training classes and all validation classes of the same split."""
    images = ShardedImages(data, "train")
    train, validation = training_and_validation(images, SPLIT_SEED, "retrieval")
    classes = np.random.default_rng(SPLIT_SEED).permutation(train.classes)[:CLASSES]
    return subset_of_classes(images, classes), validation


def curves_of(seed: int) -> Path:
    return CURVES / f"emoji-{seed}.json"


def collapsed(trial: dict[str, Any]) -> bool:
    scores = trial["scores"]
    return "diverged" in trial or scores[-1] < COLLAPSED * scores[0]


def record(values: dict[str, Any], seed: int, train: ClassSubset, validation: ClassSubset) -> dict[str, Any]:
    """Train a configuration and return its curve, which ends early if training diverges."""
    training = Training(recipe_from({**values, "seed": seed}), train, validation, torch.device("cpu"))
    curve: dict[str, Any] = {"scores": [], "seconds": []}
    try:
        for metrics in training.epochs():
            curve["scores"].append(round(metrics[SCORE], 5))
            curve["seconds"].append(round(metrics["train_seconds"] + metrics["validation_seconds"], 2))
    except TrainingDiverged as error:
        curve["diverged"] = str(error)
    return curve


def write(file: Path, content: dict[str, Any]) -> None:
    """Write one line per trial; the file is replaced as a whole or not at all."""
    trials = ",\n".join(json.dumps(trial) for trial in content["trials"])
    head = json.dumps({name: value for name, value in content.items() if name != "trials"}, indent=1)
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(f'{head.removesuffix("}").rstrip()},\n "trials": [\n{trials}\n]}}\n', encoding="utf-8")
    os.replace(unfinished, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches; run seed 0 first")
    parser.add_argument("--data", help="the packed emoji (default: those that ship with the project)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = read_space(CURVES / "emoji.yaml")
    train, validation = subsets(locate("emoji", arguments.data))
    file = curves_of(arguments.seed)
    content: dict[str, Any] = {
        "train": {"classes": len(train.classes), "images": len(train)},
        "validation": {"classes": len(validation.classes), "images": len(validation)},
        "seed": arguments.seed,
        "torch": torch.__version__,
        "trials": json.loads(file.read_text())["trials"] if file.exists() else [],
    }
    known = [trial["configuration"] for trial in content["trials"]]
    configurations = grid(space)
    if arguments.seed:
        first = json.loads(curves_of(0).read_text(encoding="utf-8"))["trials"]
        hopeless = [trial["configuration"] for trial in first if collapsed(trial)]
        configurations = [configuration for configuration in configurations if configuration not in hopeless]
    for number, configuration in enumerate(configurations, start=1):
        if configuration in known:
            continue
        began = time.perf_counter()
        curve = record({**space.recipe, **configuration}, arguments.seed, train, validation)
        content["trials"].append({"configuration": configuration, **curve})
        write(file, content)
        best = max(curve["scores"], default=float("nan"))
        seconds = time.perf_counter() - began
        print(f"{number}/{len(configurations)}  {configuration}  best {best:.4f}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
