"""What a factorized training step costs beside a dense one: the same backbone, batch and threads, in turns in one process.

    python benchmarks/train_step.py [--backbone vit_small_patch16_224] [--image-size 224] [--batch 16] [--steps 8]

Dense: timm's model with Proxy-Anchor on its features, forward, backward and AdamW. Ours: the objective of DFML on the same
model. Prints one table and writes train_step.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.embedding_model import build_model
from dfml.losses import ProxyAnchor
from dfml.objective import Objective
from dfml.pretrained import create_backbone
from dfml.recipe import Recipe

CLASSES = 100


def dense_step(recipe: Recipe) -> Callable[[Tensor, Tensor], None]:
    backbone = create_backbone(recipe.backbone, "random", recipe.image_size).train()
    loss = ProxyAnchor(CLASSES, int(backbone.num_features))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([*backbone.parameters(), *loss.parameters()], lr=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss(F.normalize(backbone(images), dim=-1), labels).backward()
        optimizer.step()

    return step


def factorized_step(recipe: Recipe) -> Callable[[Tensor, Tensor], None]:
    objective = Objective(build_model(recipe), CLASSES).train()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        objective(images, labels)["loss"].backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--routers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="counted steps of each, after one that isn't")
    arguments = parser.parse_args()
    recipe = Recipe(
        backbone=arguments.backbone, image_size=arguments.image_size, routers=arguments.routers, weights="random"
    )
    torch.manual_seed(0)
    steps = {"dense timm": dense_step(recipe), "factorized, exact": factorized_step(recipe)}
    images = torch.randn(arguments.batch, 3, arguments.image_size, arguments.image_size)
    labels = torch.randint(CLASSES, (arguments.batch,))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.steps + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step(images, labels)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    ratios = [ours / dense for dense, ours in zip(*seconds.values(), strict=True)]
    print(f"{arguments.backbone}, {arguments.image_size} px, batch {arguments.batch}, K={arguments.routers}, "
          f"{torch.get_num_threads()} threads, median of {arguments.steps} steps in turns")  # fmt: skip
    for name, found in seconds.items():
        print(f"{name:20}  {statistics.median(found):7.3f} s")
    print(f"{'ratio':20}  {statistics.median(ratios):7.3f}  ({min(ratios):.3f} to {max(ratios):.3f})")
    content = {**vars(arguments), "threads": torch.get_num_threads(), "seconds": seconds, "ratios": ratios}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
