"""Optimizers: fused kernels on GPUs, whose state continues on CPUs, and the other way round.

torch's fused kernels run on CPUs too, so that what a GPU gets is tested without one.
"""

from __future__ import annotations

import io
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from dfml.recipe import Recipe
from dfml.train.optimizer import FUSED, build_optimizer, load_optimizer

GPU, CPU = torch.device("cuda"), torch.device("cpu")
NAMES = get_args(Recipe.model_fields["optimizer"].annotation)


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((20, 3), (7,), (4, 3, 1, 1))]


def optimizer_of(name: str, parameters: list[Tensor], device: torch.device) -> torch.optim.Optimizer:
    groups = [{"params": parameters[:1], "rate": 1.0}, {"params": parameters[1:], "rate": 100.0}]
    return build_optimizer(Recipe(optimizer=name, lr=1e-2, weight_decay=0.1), groups, device)


def train(optimizer: torch.optim.Optimizer, parameters: list[Tensor], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def stored(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_gpus_get_a_fused_kernel_if_torch_has_one(name: str) -> None:
    fused = {device: optimizer_of(name, weights(), device).param_groups[1].get("fused") for device in (GPU, CPU)}
    assert bool(fused[GPU]) == (name in FUSED)
    assert not fused[CPU]


@pytest.mark.parametrize("name", FUSED)
def test_fused_kernel_takes_the_same_steps(name: str) -> None:
    plain, fused = weights(), weights()
    train(optimizer_of(name, plain, CPU), plain, range(5))
    train(optimizer_of(name, fused, GPU), fused, range(5))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("before", "after"), [(GPU, CPU), (CPU, GPU)], ids=["GPU to CPU", "CPU to GPU"])
def test_state_continues_on_the_other_device_with_its_own_kernels(
    name: str, before: torch.device, after: torch.device
) -> None:
    expected, given = weights(), weights()
    train(optimizer_of(name, expected, before), expected, range(8))
    first = optimizer_of(name, given, before)
    train(first, given, range(4))
    second = optimizer_of(name, given, after)
    own = second.param_groups[0].get("fused")
    load_optimizer(second, stored(first))
    assert [group.get("fused") for group in second.param_groups] == [own, own]
    train(second, given, range(4, 8))
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)
