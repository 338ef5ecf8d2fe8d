"""Compare a factorized training step with a dense one: time and peak memory.

    python benchmarks/train_step.py [--backbone vit_small_patch16_224] [--image-size 224]
        [--batch 16] [--steps 8]

Backbone, batch and threads are the same, and the steps take turns in one process. Dense: timm's
model with Proxy-Anchor on its features, forward, backward and AdamW. Exact and sparse: the
objective of DFML on the same model, without and with `sparse_training`. Peak memory is measured in
a separate process for each, above the memory after the imports. Print one table and write
train_step.json next to this file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.embedding_model import build_model
from dfml.losses.proxy_anchor import ProxyAnchor
from dfml.objective import Objective
from dfml.pretrained import create_backbone
from dfml.recipe import Recipe

CLASSES = 100
Step = Callable[[Tensor, Tensor], None]


def dense_step(recipe: Recipe) -> Step:
    backbone = create_backbone(recipe.backbone, "random", recipe.image_size).train()
    loss = ProxyAnchor(CLASSES, int(backbone.num_features))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([*backbone.parameters(), *loss.parameters()], lr=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss(F.normalize(backbone(images), dim=-1), labels).backward()
        optimizer.step()

    return step


def factorized_step(recipe: Recipe) -> Step:
    objective = Objective(build_model(recipe), CLASSES).train()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        objective(images, labels)["loss"].backward()
        optimizer.step()

    return step


STEPS: dict[str, Callable[[Recipe], Step]] = {
    "dense timm": dense_step,
    "factorized, exact": factorized_step,
    "factorized, sparse": lambda recipe: factorized_step(recipe.model_copy(update={"sparse_training": True})),
}


def batch(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.image_size, arguments.image_size)
    return images, torch.randint(CLASSES, (arguments.batch,))


def timed(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, list[float]]:
    steps = {name: build(recipe) for name, build in STEPS.items()}
    images, labels = batch(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.steps + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step(images, labels)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def peak_memory(name: str, arguments: argparse.Namespace, recipe: Recipe) -> int:
    """Return the bytes by which the process grows over three steps."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = STEPS[name](recipe)
    for _ in range(3):
        step(*batch(arguments))
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sub-blocks", dest="num_sub_blocks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each kind, after one untimed step")
    arguments = parser.parse_args()
    recipe = Recipe(
        backbone=arguments.backbone,
        image_size=arguments.image_size,
        num_sub_blocks=arguments.num_sub_blocks,
        weights="random",
    )
    memory = {}
    # Each in a fresh process, because a process's peak never falls.
    for name in STEPS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory[name] = pool.apply(peak_memory, (name, arguments, recipe))
    seconds = timed(arguments, recipe)
    dense = seconds["dense timm"]
    ratios = {name: [a / b for a, b in zip(found, dense, strict=True)] for name, found in seconds.items()}
    print(f"{arguments.backbone}, {arguments.image_size} px, batch {arguments.batch}, K={arguments.num_sub_blocks}, "
          f"{torch.get_num_threads()} threads, median of {arguments.steps} steps in turns")  # fmt: skip
    print(f"{'':20}  seconds   × dense (least to most)   peak memory   × dense")
    for name, found in seconds.items():
        of_dense = ratios[name]
        print(f"{name:20}  {statistics.median(found):7.3f}   "
              f"{statistics.median(of_dense):7.3f} ({min(of_dense):.3f} to {max(of_dense):.3f})"
              f"   {memory[name] / 2**20:8.0f} MiB   {memory[name] / memory['dense timm']:7.2f}")  # fmt: skip
    content = {
        **vars(arguments),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "ratios": {name: statistics.median(found) for name, found in ratios.items()},
        "peak_bytes": memory,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
