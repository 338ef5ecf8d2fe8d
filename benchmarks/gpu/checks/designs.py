"""Pieces of which a faster step could be made, each beside the present one."""

from __future__ import annotations

import statistics
import time

import torch
from torch.nn import functional as F

from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import Run, median_seconds, take_turns
from benchmarks.gpu.models import BASE, SMALL, dense_backbone
from dfml.factorized.sub_blocks import sub_block_products

TIMES = 10
SECONDS = 5
SUB_BLOCKS = 3
# Of an image of 224 pixels in DeiT-S distilled.
TOKENS_PER_IMAGE = 198


def check_designs(context: Context) -> None:
    """Time a grouped product, the products of gradient and a_k, and fused AdamW."""
    widths = ((SMALL, 384), (BASE, 768)) if context.cuda else ((SMALL, 24),)
    for title, width in widths:
        tokens = context.sizes.batch * TOKENS_PER_IMAGE if context.cuda else 60
        _check_first_layer(context, title, tokens, width)
        _check_inner_products(context, title, tokens, width)
    _check_optimizer(context)


def _check_first_layer(context: Context, title: str, tokens: int, width: int) -> None:
    hidden = 4 * width // SUB_BLOCKS
    z = _random(context, tokens, width)
    weight = _random(context, SUB_BLOCKS * hidden, width)
    sizes = [tokens // 2, tokens // 3, tokens - tokens // 2 - tokens // 3]
    ends = torch.tensor(sizes, device=context.device).cumsum(0).to(torch.int32)
    # (K, C, P)
    parts = weight.view(SUB_BLOCKS, hidden, width).transpose(1, 2)
    runs: dict[str, Run] = {
        "dense": lambda: F.linear(z, weight),
        "K products": lambda: [
            F.linear(part, w) for part, w in zip(z.split(sizes), weight.chunk(SUB_BLOCKS), strict=True)
        ],
    }
    grouped = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if grouped is None:
        context.report.skip(f"{title}, grouped product", "this torch has none")
    else:
        try:
            grouped(z, parts, offs=ends)
            runs["grouped product"] = lambda: grouped(z, parts, offs=ends)
        except Exception as error:
            context.report.skip(f"{title}, grouped product", f"{type(error).__name__}: {error}"[:200])
    _report_microseconds(context, f"{title}, first MLP layer", runs)


def _check_inner_products(context: Context, title: str, tokens: int, width: int) -> None:
    values, direction = _random(context, SUB_BLOCKS, tokens, width), _random(context, tokens, width)
    chosen = torch.zeros(tokens, dtype=torch.int64, device=context.device)
    runs: dict[str, Run] = {
        "a product a token, as it is": lambda: sub_block_products(direction, values, chosen, SUB_BLOCKS),
        "products and sums": lambda: (values * direction).sum(-1).T,
    }
    _report_microseconds(context, f"{title}, ⟨gradient, a_k⟩", runs)


def _check_optimizer(context: Context) -> None:
    model = dense_backbone(context.sizes.base, context.sizes.image).to(context.device)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for fused in (False, True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, **({"fused": True} if fused else {}))
        optimizer.step()
        seconds = median_seconds(optimizer.step, times=5, calls=3)
        context.report.figure(f"{BASE}, AdamW{' fused' if fused else ', as it is'}", 1000 * seconds, "ms")


def _random(context: Context, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=context.device, dtype=torch.bfloat16)


def _report_microseconds(context: Context, title: str, runs: dict[str, Run]) -> None:
    for name, seconds in take_turns(runs, context.sizes, time.monotonic() + SECONDS, TIMES).items():
        context.report.figure(f"{title}, {name}", 1e6 * statistics.median(seconds), "µs")
