"""The masked design of a training step, for GPUs: static shapes, plain operators, no waiting.

Both streams are one batch. Every sub-block is computed for every token of the routed stream, and
the choice r is a factor on the hidden units of each. In the backward pass each r_k passes its
gradient ⟨gradient, a_k⟩ to p_k, as in the gathered design (`sub_blocks.py`). As autograd computes
that, a block can be compiled as a whole, and the host never waits for the device. In return,
sub-blocks not chosen take part in the backward pass too, multiplied by 0.

M tokens (or images) of the routed stream, K sub-blocks, P hidden units per sub-block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.factorized.router import Routing
from dfml.factorized.sub_blocks import SubBlockSum, with_grad_p


class MaskedOutput(NamedTuple):
    streams: Tensor  # (2B, …), the full stream first
    distance: Tensor  # scalar: the block's share
    p: tuple[Tensor, ...]  # (M, K) of each router in the block, with gradient
    onehot: tuple[Tensor, ...]  # (M, K) of each router in the block


def factors(routing: Routing, sparse: bool) -> Tensor:
    """Return the factors (2M, K) of all sub-blocks: 1 in the full stream, r in the routed stream.

    Args:
        routing: the routing.
        sparse: whether only the chosen p_k receives a gradient.
    """
    r: Tensor = _StraightThrough.apply(routing.p, routing.onehot, sparse)
    return torch.cat([torch.ones_like(r), r])


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, onehot: Tensor, sparse: bool) -> Tensor:
        ctx.sparse = sparse
        ctx.save_for_backward(onehot)
        return onehot.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (onehot,) = ctx.saved_tensors
        return gradient * onehot if ctx.sparse else gradient, None, None


def masked_sum(layer: SubBlockSum, hidden: Tensor, r: Tensor) -> Tensor:
    """Return Σ_k r_k a_k of both streams.

    Args:
        layer: the layer whose parts are the a_k.
        hidden: the hidden units (2B, N, K·P), the full stream first.
        r: the factors (2M, K).

    Returns:
        (2B, N, C).
    """
    factor = r.to(hidden.dtype).view(*hidden.shape[:-1], -1, 1)
    gated = (hidden.unflatten(-1, (factor.shape[-2], -1)) * factor).flatten(-2)
    return F.linear(gated, layer.weight) + (r @ layer.bias).view(*hidden.shape[:-1], -1)


def masked_distance(norm: Tensor, grad_p: Tensor, routing: Routing, sparse: bool) -> Tensor:
    """Return the distance between both streams, with its gradient for the router.

    Args:
        norm: ‖routed − full‖ of each token.
        grad_p: ⟨u, a_k⟩ (M, K), as in `with_grad_p`.
        routing: the routing.
        sparse: as in `factors`.
    """
    return with_grad_p(norm.sum(), routing, grad_p * routing.onehot if sparse else grad_p)
