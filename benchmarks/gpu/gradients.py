"""Gradients of an objective, and how much two sets of gradients differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.gpu.measure import relative_error

# By the parameter's name.
Gradients = dict[str, Tensor]


def gradients(objective: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, Gradients]:
    """Return the loss, and the gradient of each parameter that has one."""
    objective.zero_grad(set_to_none=True)
    loss = objective(images, labels)["loss"]
    loss.backward()
    found = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def worst_error(given: Gradients, truth: Gradients) -> float:
    """Return the largest relative error of a parameter's gradient; infinity if one is missing."""
    if given.keys() != truth.keys():
        return math.inf
    return max(relative_error(given[name], truth[name]) for name in truth)


def as_one(found: Gradients) -> Tensor:
    """Return all gradients as one vector, in float64 on the CPU."""
    return torch.cat([found[name].detach().double().cpu().flatten() for name in sorted(found)])


def without_prefix(found: Gradients) -> Gradients:
    """Return gradients of a module wrapped by DDP under the names that they have without DDP."""
    return {name.removeprefix("module."): gradient for name, gradient in found.items()}
