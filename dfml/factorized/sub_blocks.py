"""The sum of sub-blocks, and its computation when routed.

Routed, y = Σ_k r_k a_k with r one-hot. In the forward pass, and in the backward pass into weights
and stream, only the chosen a_k counts, since the others are multiplied by 0. Only the router needs
the others, since ∂/∂r_k = ⟨gradient, a_k⟩ for every k. So the values of all a_k are computed, but
the backward pass goes through each token's chosen sub-block only; in sparse training and at
inference, the other a_k aren't computed at all.

M tokens (or images), C channels, K sub-blocks, P hidden units (or head channels) per sub-block. "By
sub-block" means rows in the order `Routing.order`: first the rows of the first sub-block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.factorized.router import Routing


class SubBlockSum(nn.Module):
    """The last linear layer of a block, cut by its inputs: a_k = W[:, part k] h_k + b_k.

    Args:
        linear: the pretrained layer; each b_k starts as 1/K of its bias, and is trained separately.
        num_sub_blocks: the number K of sub-blocks.
    """

    def __init__(self, linear: nn.Linear, num_sub_blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone())  # (C, K·P)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.bias = nn.Parameter((bias / num_sub_blocks).repeat(num_sub_blocks, 1))  # (K, C)

    def forward(self, h: Tensor) -> Tensor:
        """Return Σ_k a_k for h (…, K·P), as the dense layer does."""
        return F.linear(h, self.weight, self.bias.sum(dim=0))

    def routed(self, h_chosen: Tensor, h_all: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
        """Return the chosen a_k of each token, and the a_k that the router's gradient needs.

        Args:
            h_chosen: h of each token's chosen sub-block (M, P), by sub-block.
            h_all: h of all sub-blocks (M, K·P), without gradient; None: return chosen a_k only.
            routing: the routing; its `p` receives the straight-through gradient ⟨gradient, a_k⟩.

        Returns:
            The sum (M, C); and all a_k (K, M, C), or the chosen ones (1, M, C), without gradient.
        """
        h_chosen, weight, bias = cast_for_autocast(h_chosen, self.weight, self.bias)
        y, sub_block_outputs = _RoutedSum.apply(h_chosen, weight, bias, routing.p, h_all, routing)
        return y, y.detach()[None] if sub_block_outputs is None else sub_block_outputs


def routed_linear(
    z: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing, all_parts: bool
) -> tuple[Tensor, Tensor | None]:
    """Apply the linear layer before a sum of sub-blocks, whose outputs are cut into K parts.

    Args:
        z: the input (M, C).
        weight: the weight (K·P, C).
        bias: the bias (K·P,); None: no bias.
        routing: the routing.
        all_parts: whether to return the outputs of all parts as well.

    Returns:
        The part of each token's chosen sub-block (M, P), by sub-block; and all parts (M, K·P)
        without gradient, or None.
    """
    z, weight = cast_for_autocast(z, weight)
    (bias,) = (None,) if bias is None else cast_for_autocast(bias)
    found: tuple[Tensor, Tensor | None] = _RoutedLinear.apply(z, weight, bias, routing, all_parts)
    return found


def straight_through(y: Tensor, routing: Routing, sub_block_outputs: Tensor) -> Tensor:
    """Return y with the straight-through gradient of the choice, ∂/∂p_k = ⟨gradient, a_k⟩.

    Args:
        y: the chosen a_k (M, …).
        routing: the routing; its `p` receives the gradient.
        sub_block_outputs: a_k for every k (K, M, …), or for the chosen k only (1, M, …); in that
            case only the chosen p_k receives a gradient.
    """
    passed: Tensor = _StraightThrough.apply(y, routing.p, sub_block_outputs, routing.chosen)
    return passed


def dot_with_sub_blocks(direction: Tensor, sub_block_outputs: Tensor, routing: Routing) -> Tensor:
    """Return ⟨direction, a_k⟩ (M, K) for a direction (M, …); 0 for each k whose a_k isn't given.

    `sub_block_outputs` are as in `straight_through`.
    """
    return sub_block_products(direction, sub_block_outputs, routing.chosen, len(routing.sizes))


def with_grad_p(distance: Tensor, routing: Routing, grad_p: Tensor) -> Tensor:
    """Return `distance` with the gradient `grad_p` (M, K) for the router, and no other gradient.

    In the publication's reconstruction term, x̂ = sg(stream) + Σ_k r_k sg(a_k) has the value of the
    routed stream, and d‖x̂ − x‖/dr_k = ⟨u, a_k⟩ with u the unit vector from x to x̂. Both are known
    without another pass through the block.

    Args:
        distance: the scalar Σ over tokens of ‖x̂ − sg x‖₂.
        routing: the routing; its `p_of_router` receives the gradient, for the router's weights.
        grad_p: ⟨u, a_k⟩, 0 if both streams are equal, as in torch.linalg.vector_norm.
    """
    distance = _WithGradP.apply(distance, routing.p_of_router, grad_p)
    return distance


class _WithGradP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, p: Tensor, grad_p: Tensor) -> Tensor:
        ctx.save_for_backward(grad_p.to(p.dtype))
        return distance.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (grad_p,) = ctx.saved_tensors
        return None, gradient * grad_p, None


class _RoutedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing, all_parts: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.sizes, ctx.gathered = routing.sizes, not all_parts
        K = len(routing.sizes)
        if all_parts:
            outputs = F.linear(z, weight, bias)  # (M, K·P)
            ctx.mark_non_differentiable(outputs)
            ctx.save_for_backward(z, weight, routing.order, routing.inverse)
            rows = routing.order * K + routing.chosen[routing.order]
            return outputs.view(len(z) * K, -1).index_select(0, rows), outputs
        tokens = z.index_select(0, routing.order)
        ctx.save_for_backward(tokens, weight, routing.order, routing.inverse)
        chosen_parts = z.new_empty(len(z), len(weight) // K)
        biases = (None,) * K if bias is None else bias.chunk(K)
        for k, part in enumerate(_parts(routing.sizes)):
            _linear(tokens[part], weight.chunk(K)[k], biases[k], chosen_parts[part])
        return chosen_parts, None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        tokens, weight, order, inverse = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if needed[1] and not ctx.gathered:
            tokens = tokens.index_select(0, order)
        dz, dw, db = _backward(gradient, tokens, weight, ctx.sizes, needed, dim=0)
        return None if dz is None else dz.index_select(0, inverse), dw, None if db is None else db.flatten(), None, None


class _RoutedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_chosen: Tensor, weight: Tensor, bias: Tensor, p: Tensor, h_all: Tensor | None, routing: Routing
    ) -> tuple[Tensor, Tensor | None]:
        ctx.sizes, ctx.p = routing.sizes, p.dtype
        M, (K, C) = len(h_chosen), bias.shape
        weights = weight.chunk(K, dim=1)
        if h_all is None:
            sums = h_chosen.new_empty(M, C)
            for k, part in enumerate(_parts(routing.sizes)):
                _linear(h_chosen[part], weights[k], bias[k], sums[part])
            y = sums.index_select(0, routing.inverse)
            ctx.save_for_backward(h_chosen, weight, y, routing.order, routing.chosen)
            return y, None
        sub_block_outputs = h_chosen.new_empty(K, M, C)
        for k, h in enumerate(h_all.chunk(K, dim=1)):
            _linear(h, weights[k], bias[k], sub_block_outputs[k])
        rows = routing.chosen * M + torch.arange(M, device=h_chosen.device)
        y = sub_block_outputs.view(K * M, C).index_select(0, rows)
        ctx.mark_non_differentiable(sub_block_outputs)
        ctx.save_for_backward(h_chosen, weight, sub_block_outputs, routing.order, routing.chosen)
        return y, sub_block_outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        h_chosen, weight, sub_block_outputs, order, chosen = ctx.saved_tensors
        sub_block_outputs = sub_block_outputs if sub_block_outputs.dim() == 3 else sub_block_outputs[None]
        *needed, of_p = ctx.needs_input_grad[:4]
        dh, dw, db = _backward(gradient.index_select(0, order), h_chosen, weight, ctx.sizes, needed, dim=1)
        dp = sub_block_products(gradient, sub_block_outputs, chosen, len(ctx.sizes)).to(ctx.p) if of_p else None
        return dh, dw, db, dp, None, None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, p: Tensor, sub_block_outputs: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(sub_block_outputs, chosen)
        ctx.p = p.shape, p.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        sub_block_outputs, chosen = ctx.saved_tensors
        shape, dtype = ctx.p
        return gradient, sub_block_products(gradient, sub_block_outputs, chosen, shape[-1]).to(dtype), None, None


def sub_block_products(direction: Tensor, sub_block_outputs: Tensor, chosen: Tensor, num_sub_blocks: int) -> Tensor:
    """Return ⟨direction, a_k⟩ (M, K); 0 for each k whose a_k isn't given."""
    # One small matrix product per token: the products of single channels are never in memory.
    vectors = direction.to(sub_block_outputs.dtype).flatten(1)[..., None]
    products = torch.bmm(sub_block_outputs.flatten(2).transpose(0, 1), vectors)[..., 0]
    if len(sub_block_outputs) == num_sub_blocks:
        return products
    return products.new_zeros(len(chosen), num_sub_blocks).scatter(1, chosen[:, None], products)


def _parts(sizes: list[int]) -> Iterator[slice]:
    """Yield the slice of each sub-block among rows by sub-block."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, sizes: list[int], needed: Sequence[bool], dim: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of y_k = W_k x_k + b_k for x, for W, and for the b_k (K, …).

    Args:
        gradient: the gradient of y (M, …), by sub-block.
        x: the input (M, …), by sub-block.
        weight: W, whose K parts along `dim` are the W_k.
        sizes: the number of rows of each sub-block.
        needed: whether each of the three gradients is needed; else it is None.
        dim: the dimension of W that is cut into parts.
    """
    K = len(sizes)
    of_x, of_weight, of_bias = needed
    dx = torch.empty_like(x) if of_x else None
    dw = torch.empty_like(weight) if of_weight else None
    db = gradient.new_empty(K, gradient.shape[1]) if of_bias else None
    for k, part in enumerate(_parts(sizes)):
        if dx is not None:
            torch.mm(gradient[part], weight.chunk(K, dim)[k], out=dx[part])
        if dw is not None:
            torch.mm(gradient[part].T, x[part], out=dw.chunk(K, dim)[k])
        if db is not None:
            torch.sum(gradient[part], dim=0, out=db[k])
    return dx, dw, db


def cast_for_autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast to the autocast dtype: `torch.mm(..., out=)` bypasses autocast."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]
