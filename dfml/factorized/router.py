"""The router: which sub-block a token, or an image, goes through (DFML §3.2; the published code's `gate`).

M tokens (or images), K sub-blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Routing:
    """Where each of M tokens goes, and their rearrangement by sub-block, so that each sub-block sees its own only.

    Args:
        p: probabilities (M, K), with gradient.
        p_of_router: the same with a gradient for the router's weights alone, which doesn't reach what the router read; p without it.

    Attributes:
        chosen: the sub-block of each token (M,), argmax p.
        order: tokens by sub-block, in their old order within one (M,); `inverse` puts them back.
        sizes: how many tokens go through each sub-block.
    """

    def __init__(self, p: Tensor, p_of_router: Tensor | None = None) -> None:
        self.p = p
        self.p_of_router = p if p_of_router is None else p_of_router
        self.chosen = p.detach().argmax(dim=-1)
        self.order = torch.argsort(self.chosen, stable=True)
        self.sizes: list[int] = torch.bincount(self.chosen, minlength=p.shape[-1]).tolist()
        self.inverse = torch.empty_like(self.order)
        self.inverse[self.order] = torch.arange(len(self.order), device=p.device)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (M, …) to K tensors: the rows that go through each sub-block."""
        rearranged: Tensor = _Rearrange.apply(x, self.order, self.inverse)
        return rearranged.split(self.sizes)

    def join(self, parts: list[Tensor]) -> Tensor:
        """What `split` took apart, (M, …) in the old order."""
        joined: Tensor = _Rearrange.apply(torch.cat(parts), self.inverse, self.order)
        return joined


class Router(nn.Module):
    """A linear map without bias and an argmax over K sub-blocks: p = softmax(G z / temperature).

    Args:
        width: channels C of what is routed.
        routers: number of sub-blocks K.

    Attributes:
        temperature: of the softmax; it changes no choice, only how far a gradient spreads. 1 as published.
    """

    def __init__(self, width: int, routers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(routers, width))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # what torch.nn.Linear, and so the published code, starts from
        self.temperature = 1.0

    def forward(self, z: Tensor) -> Routing:
        """z (…, C), all but the last dimension flattened to M."""
        # Not in half precision: two sub-blocks would tie, and a recomputed pass might choose another.
        with torch.autocast(z.device.type, enabled=False):
            logits = _Logits.apply(z.flatten(0, -2).to(self.weight.dtype), self.weight)
            return Routing(*((one / self.temperature).softmax(dim=-1) for one in logits))


class _Logits(torch.autograd.Function):
    """G z twice: with the usual gradient, and with one for G alone. Both need G z and a product with z once."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z, weight)
        logits = F.linear(z, weight)
        return logits, logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_weight_alone: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, weight = ctx.saved_tensors
        of_z, of_weight = ctx.needs_input_grad
        return gradient @ weight if of_z else None, (gradient + of_weight_alone).T @ z if of_weight else None


class _Rearrange(torch.autograd.Function):
    """Rows in another order. Indexing's own backward adds rows up one by one, which a permutation doesn't need."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None
