"""The optimizers by their names in a recipe, with torch's fused kernels on GPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dfml.recipe import Recipe

# With the publication's settings other than learning rate and weight decay.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, momentum=0.9),
}
# The others have no fused kernel in torch.
FUSED = ("adamw", "adam", "sgd")


def build_optimizer(recipe: Recipe, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """Build the recipe's optimizer of parameter groups on a device.

    On a GPU a fused kernel updates all weights in one pass over memory. A CPU keeps torch's loop:
    its fused kernel rounds in another way.
    """
    fused = {"fused": True} if device.type == "cuda" and recipe.optimizer in FUSED else {}
    return OPTIMIZERS[recipe.optimizer](groups, lr=recipe.lr, weight_decay=recipe.weight_decay, **fused)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a result of `state_dict` that may be from another kind of device."""
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        # torch would take over the other device's choice of kernels.
        if "fused" in group:
            saved["fused"] = group["fused"]
    optimizer.load_state_dict(state)
