"""What every family shares: the sum of sub-blocks, the straight-through choice among them, and the distance that teaches routers.

M tokens (or images), C channels, K sub-blocks, H hidden units (head outputs, or an MLP's activations), H/K a sub-block.

The routed sum is Σ_k r_k a_k with r one-hot. Forward, and backward into weights and stream, only the chosen a_k counts: the
others are multiplied by 0. The router alone needs the rest, since ∂/∂r_k = ⟨gradient, a_k⟩ for every k. So each token goes
through its own sub-block with a graph, and through the others for their value only (or, in sparse training, not at all).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.factorized.router import Routing


class SubBlockSum(nn.Module):
    """The last linear layer of a block, cut into K sub-blocks by its inputs: a_k = W[:, part k] h_k + b_k.

    Args:
        linear: the pretrained layer; each b_k starts as 1/K of its bias, and is trained on its own from there.
        routers: number of sub-blocks K.
    """

    def __init__(self, linear: nn.Linear, routers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone())  # (C, H)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.bias = nn.Parameter((bias / routers).repeat(routers, 1))  # (K, C)

    def forward(self, h: Tensor) -> Tensor:
        """Σ_k a_k for h (…, H): the dense layer."""
        return F.linear(h, self.weight, self.bias.sum(dim=0))

    def each(self, parts: list[Tensor]) -> list[Tensor]:
        """a_k for each k: `parts[k]` is h_k (M_k, H/K); returns (M_k, C) each."""
        weights = self.weight.chunk(len(parts), dim=1)
        return [F.linear(h, w, b) for h, w, b in zip(parts, weights, self.bias.unbind(), strict=True)]


def straight_through(y: Tensor, routing: Routing, values: Tensor) -> Tensor:
    """y, the chosen a_k, and in the backward pass ∂/∂p_k = ⟨gradient, a_k⟩: the straight-through gradient of the choice.

    Args:
        y: (M, …).
        routing: its `p` receives the gradient.
        values: a_k for every k (K, M, …), or for the chosen one alone (1, M, …), in which case the others' p get none.
    """
    passed: Tensor = _StraightThrough.apply(y, routing.p, values, routing.chosen)
    return passed


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, p: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(values, chosen)
        ctx.p = p.shape, p.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, chosen = ctx.saved_tensors
        shape, dtype = ctx.p
        return gradient, _inner(gradient, values, chosen, shape[-1]).to(dtype), None, None


def _inner(direction: Tensor, values: Tensor, chosen: Tensor, routers: int) -> Tensor:
    """⟨direction, a_k⟩ (M, K) for direction (M, …); 0 for those k whose value isn't given."""
    products = torch.stack([(direction * value).flatten(1).sum(dim=1) for value in values], dim=1)
    if len(values) == routers:
        return products
    return products.new_zeros(len(chosen), routers).scatter(1, chosen[:, None], products)


def routing_distance(
    x_full: Tensor,
    x_routed: Tensor,
    direction_to_sum: Callable[[Tensor], Tensor],
    p: Tensor,
    routing: Routing,
    values: Tensor,
    channels: int,
) -> Tensor:
    """Σ over tokens of ‖x̂ − sg x‖₂, with a gradient for the router alone (DFML's reconstruction of features).

    x̂ = sg(stream) + Σ_k r_k sg(a_k) has the value of the routed stream, and d‖x̂ − x‖/dr_k = ⟨u, a_k⟩ with u the unit vector
    from x to x̂. Both are known without another pass through the block, so a term that is linear in p carries the gradient.

    Args:
        x_full: the full stream after the residual, (M, …).
        x_routed: the routed stream at the same place.
        direction_to_sum: takes u, shaped like x, back to a direction at the sum of sub-blocks.
        p: the router's probabilities (M, K) on a *detached* input, so that its gradient ends at the router's weights.
        routing: the router's choice.
        values: as for `straight_through`.
        channels: the dimension of x over which the norm is taken.
    """
    with torch.no_grad():
        difference = x_routed - x_full
        norm = difference.norm(dim=channels, keepdim=True)
        # Where the streams are equal the norm's subgradient 0 is used, as torch.linalg.vector_norm does.
        direction = direction_to_sum(difference / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        slope = _inner(direction, values, routing.chosen, p.shape[-1])
    surrogate = (p * slope).sum()
    return norm.sum() + surrogate - surrogate.detach()
