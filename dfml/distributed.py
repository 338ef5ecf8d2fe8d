"""The little that training needs to know of other ranks. Without a process group all of it is the identity."""

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
    """Concatenate the rows of all ranks, in the order of ranks; ranks may hold different numbers of rows.

    Meant for a loss that every rank computes on the same gathered rows. Backward, a rank's rows receive world_size times the
    gradient of that one loss: after DistributedDataParallel's mean over ranks the weights then have exactly the gradient
    that one process would have on the global batch, for what lies before the gather and after it alike.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local)
    return gathered


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over ranks, in place; for figures, it carries no gradient."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """As `sum_over_ranks`, the mean."""
    return sum_over_ranks(values).div_(world_size())


def max_over_ranks(values: Tensor) -> Tensor:
    """As `sum_over_ranks`, the largest."""
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
