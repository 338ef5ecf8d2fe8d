"""Collective helpers; no-ops when torch.distributed isn't initialized."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def gather(local: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order; ranks may hold different numbers of rows.

    This is for a loss that every rank computes on the same gathered rows. In the backward pass, a
    rank's rows receive world_size times the gradient of that loss. After DistributedDataParallel's
    mean over ranks, all weights, before and after the gather, have exactly the gradient that one
    process would compute on the global batch.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local)
    return gathered


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over ranks, in place; for metrics only, since it carries no gradient."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average a tensor over ranks, in place and without gradient."""
    return sum_over_ranks(values).div_(world_size())


def max_over_ranks(values: Tensor) -> Tensor:
    """Take the maximum of each element over ranks, in place and without gradient."""
    if world_size() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        rows = torch.tensor([local.shape[0]], device=local.device)
        all_rows = [torch.zeros_like(rows) for _ in range(world_size())]
        dist.all_gather(all_rows, rows)
        sizes = [int(size) for size in all_rows]
        padded = local.new_zeros(max(sizes), *local.shape[1:])
        padded[: local.shape[0]] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.rows = slice(sum(sizes[: rank()]), sum(sizes[: rank() + 1]))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[ctx.rows] * world_size()
