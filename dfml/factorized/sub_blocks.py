"""What every family shares: the gated sum of sub-blocks, and the distance that teaches the routers.

B images, N tokens, C channels, K sub-blocks, H hidden units (head outputs, or an MLP's activations), H/K a sub-block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scale_parts(h: Tensor, r: Tensor) -> Tensor:
    """Multiply the k-th of K equal parts of h (..., H) by r_k, r (..., K)."""
    return (h.unflatten(-1, (r.shape[-1], -1)) * r.unsqueeze(-1)).flatten(-2)


class SubBlockSum(nn.Module):
    """The last linear layer of a block, cut into K sub-blocks by its inputs.

    Sub-block k gives a_k = W[:, part k] h_k + b_k. Because Σ_k r_k W[:, k] h_k = W concat_k(r_k h_k), the routed sum costs
    no more than the dense layer: scale the parts, multiply once (DESIGN §2, "Cost").

    Args:
        linear: the pretrained layer; each b_k starts as 1/K of its bias, and is trained on its own from there.
        routers: number of sub-blocks K.
    """

    def __init__(self, linear: nn.Linear, routers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone())  # (C, H)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.bias = nn.Parameter((bias / routers).repeat(routers, 1))  # (K, C)

    def forward(self, h: Tensor, r: Tensor | None) -> Tensor:
        """Σ_k r_k a_k for h (B, N, H) and r (B, N, K); without r the sum of all sub-blocks, which is the dense layer."""
        if r is None:
            return F.linear(h, self.weight, self.bias.sum(dim=0))
        return F.linear(scale_parts(h, r), self.weight) + r @ self.bias

    def along(self, direction: Tensor, h: Tensor) -> Tensor:
        """⟨direction, a_k⟩ for each token and sub-block: direction (B, N, C), h (B, N, H) to (B, N, K)."""
        routers = self.bias.shape[0]
        parts = ((direction @ self.weight) * h).unflatten(-1, (routers, -1)).sum(dim=-1)
        return parts + direction @ self.bias.T


def routing_distance(
    x_full: Tensor, x_routed: Tensor, r: Tensor, along: Callable[[Tensor], Tensor], channels: int
) -> Tensor:
    """Σ over tokens of ‖x̂ − sg x‖₂, with a gradient for the router alone (DFML's reconstruction of features).

    x̂ = sg(stream) + Σ_k r_k sg(a_k) has the value of the routed stream, and d‖x̂ − x‖/dr_k = ⟨u, a_k⟩ with u the unit vector
    from x to x̂. Both are known without another pass through the block, so a term that is linear in r carries the
    gradient: one extra matmul (inside `along`) instead of a second forward.

    Args:
        x_full: the full stream after the residual.
        x_routed: the routed stream at the same place.
        r: the router's choice on a *detached* input, so that its gradient ends at the router's weights.
        along: from a direction shaped like x to ⟨direction, a_k⟩, shaped like r.
        channels: the dimension of x over which the norm is taken.
    """
    with torch.no_grad():
        difference = x_routed - x_full
        norm = difference.norm(dim=channels, keepdim=True)
        # Where the streams are equal the norm's subgradient 0 is used, as torch.linalg.vector_norm does.
        slope = along(difference / norm.clamp_min(torch.finfo(norm.dtype).tiny))
    surrogate = (r * slope).sum()
    return norm.sum() + surrogate - surrogate.detach()
