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


def gather(share: Tensor, rows: int) -> Tensor:
    """Put the rows of all ranks together in the order that they had before they were shared out.

    Rank r of w holds rows r, r + w, r + 2w, … (`rank_share` in dfml/data/streaming/order.py). So
    each rank knows the size of each share: there is one transfer, and nothing to wait for on the
    host.

    This is for a loss that every rank computes on the same gathered rows. In the backward pass, a
    rank's rows receive world_size times the gradient of that loss. After DistributedDataParallel's
    mean over ranks, all weights, before and after the gather, have exactly the gradient that one
    process would compute on the global batch.

    Args:
        share: this rank's rows.
        rows: the number of rows of all ranks.
    """
    if world_size() == 1:
        return share
    gathered: Tensor = _Gather.apply(share, rows)
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


# Its name before torch 2.14 is deprecated now.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor, rows: int) -> Tensor:
        ctx.own = slice(rank(), None, world_size())
        # With another share, ranks would wait for each other forever, or mix up rows.
        assert len(share) == len(range(rows)[ctx.own])
        largest = -(-rows // world_size())
        missing = share.new_zeros(largest - len(share), *share.shape[1:])
        of_ranks = share.new_empty(world_size() * largest, *share.shape[1:])
        all_gather(of_ranks, torch.cat([share, missing]))
        # In the old order, missing rows are the last ones.
        return of_ranks.unflatten(0, (world_size(), largest)).transpose(0, 1).flatten(0, 1)[:rows]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own] * world_size(), None
