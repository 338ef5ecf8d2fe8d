"""The sum of sub-blocks, and what routing does to it.

Routed, y = Σ_k r_k a_k with r one-hot. Forward, and backward into weights and stream, only the chosen a_k counts: the others are
multiplied by 0. The router alone needs the rest, since ∂/∂r_k = ⟨gradient, a_k⟩ for every k. So all a_k are computed for
their value, and the backward pass goes through each token's own sub-block only; in sparse training, and at inference,
the others aren't computed at all.

M tokens (or images), C channels, K sub-blocks, P hidden units (or head channels) a sub-block. "By sub-block" means rows in the order
`Routing.order`: those of the first sub-block, then those of the second, …
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        self.weight = nn.Parameter(linear.weight.detach().clone())  # (C, K·P)
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.bias = nn.Parameter((bias / routers).repeat(routers, 1))  # (K, C)

    def forward(self, h: Tensor) -> Tensor:
        """Σ_k a_k for h (…, K·P): the dense layer."""
        return F.linear(h, self.weight, self.bias.sum(dim=0))

    def routed(self, own: Tensor, everything: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
        """The chosen a_k of each token, and the values of a_k that the router's gradient needs.

        Args:
            own: h of each token's own sub-block (M, P), by sub-block.
            everything: h of all sub-blocks (M, K·P), without gradient; None: the values are those of the chosen a_k alone.
            routing: where each token goes; its p receives the straight-through gradient ⟨gradient, a_k⟩.

        Returns:
            (M, C), and values (K, M, C) or (1, M, C) without gradient.
        """
        own, weight, bias = _autocast(own, self.weight, self.bias)
        y, values = _RoutedSum.apply(own, weight, bias, routing.p, everything, routing)
        return y, y.detach()[None] if values is None else values


def routed_linear(
    z: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing, everything: bool
) -> tuple[Tensor, Tensor | None]:
    """The linear layer before a sum of sub-blocks, whose outputs are cut into K parts.

    Args:
        z: (M, C).
        weight, bias: (K·P, C), (K·P,).
        routing: where each token goes.
        everything: whether to give the outputs of all parts as well.

    Returns:
        Each token's own part (M, P), by sub-block; and all parts (M, K·P) without gradient, or None.
    """
    z, weight = _autocast(z, weight)
    (bias,) = (None,) if bias is None else _autocast(bias)
    found: tuple[Tensor, Tensor | None] = _RoutedLinear.apply(z, weight, bias, routing, everything)
    return found


def straight_through(y: Tensor, routing: Routing, values: Tensor) -> Tensor:
    """y, the chosen a_k, and in the backward pass ∂/∂p_k = ⟨gradient, a_k⟩: the straight-through gradient of the choice.

    Args:
        y: (M, …).
        routing: its `p` receives the gradient.
        values: a_k for every k (K, M, …), or for the chosen one alone (1, M, …), in which case the others' p get none.
    """
    passed: Tensor = _StraightThrough.apply(y, routing.p, values, routing.chosen)
    return passed


def inner(direction: Tensor, values: Tensor, routing: Routing) -> Tensor:
    """⟨direction, a_k⟩ (M, K) for direction (M, …); 0 for those k whose value isn't given (see `straight_through`)."""
    return _inner(direction, values, routing.chosen, len(routing.sizes))


def with_slope(distance: Tensor, routing: Routing, slope: Tensor) -> Tensor:
    """`distance`, with the gradient `slope` (M, K) for the router and for nothing else (DFML's reconstruction of features).

    x̂ = sg(stream) + Σ_k r_k sg(a_k) has the value of the routed stream, and d‖x̂ − x‖/dr_k = ⟨u, a_k⟩ with u the unit vector
    from x to x̂. Both are known without another pass through the block, so a term that is linear in p carries the gradient.

    Args:
        distance: Σ over tokens of ‖x̂ − sg x‖₂, scalar.
        routing: its `p_of_router` receives the gradient, which ends at the router's weights.
        slope: ⟨u, a_k⟩, 0 where both streams are equal, as torch.linalg.vector_norm has it.
    """
    surrogate = (routing.p_of_router * slope.detach()).sum()
    return distance.detach() + surrogate - surrogate.detach()


class _RoutedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing, everything: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.sizes, ctx.gathered = routing.sizes, not everything
        K = len(routing.sizes)
        if everything:
            outputs = F.linear(z, weight, bias)  # (M, K·P)
            ctx.mark_non_differentiable(outputs)
            ctx.save_for_backward(z, weight, routing.order, routing.inverse)
            rows = routing.order * K + routing.chosen[routing.order]
            return outputs.view(len(z) * K, -1).index_select(0, rows), outputs
        tokens = z.index_select(0, routing.order)
        ctx.save_for_backward(tokens, weight, routing.order, routing.inverse)
        own = z.new_empty(len(z), len(weight) // K)
        biases = (None,) * K if bias is None else bias.chunk(K)
        for k, part in enumerate(_parts(routing.sizes)):
            _linear(tokens[part], weight.chunk(K)[k], biases[k], own[part])
        return own, None

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
        ctx: Any, own: Tensor, weight: Tensor, bias: Tensor, p: Tensor, everything: Tensor | None, routing: Routing
    ) -> tuple[Tensor, Tensor | None]:
        ctx.sizes, ctx.p = routing.sizes, p.dtype
        M, (K, C) = len(own), bias.shape
        weights = weight.chunk(K, dim=1)
        if everything is None:
            sums = own.new_empty(M, C)
            for k, part in enumerate(_parts(routing.sizes)):
                _linear(own[part], weights[k], bias[k], sums[part])
            y = sums.index_select(0, routing.inverse)
            ctx.save_for_backward(own, weight, y, routing.order, routing.chosen)
            return y, None
        values = own.new_empty(K, M, C)
        for k, h in enumerate(everything.chunk(K, dim=1)):
            _linear(h, weights[k], bias[k], values[k])
        y = values.view(K * M, C).index_select(0, routing.chosen * M + torch.arange(M, device=own.device))
        ctx.mark_non_differentiable(values)
        ctx.save_for_backward(own, weight, values, routing.order, routing.chosen)
        return y, values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        own, weight, values, order, chosen = ctx.saved_tensors
        values = values if values.dim() == 3 else values[None]
        *needed, of_p = ctx.needs_input_grad[:4]
        dh, dw, db = _backward(gradient.index_select(0, order), own, weight, ctx.sizes, needed, dim=1)
        dp = _inner(gradient, values, chosen, len(ctx.sizes)).to(ctx.p) if of_p else None
        return dh, dw, db, dp, None, None


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
    # One small matrix product a token: no product of all channels is ever written down.
    products = torch.bmm(values.flatten(2).transpose(0, 1), direction.to(values.dtype).flatten(1)[..., None])[..., 0]
    if len(values) == routers:
        return products
    return products.new_zeros(len(chosen), routers).scatter(1, chosen[:, None], products)


def _parts(sizes: list[int]) -> Iterator[slice]:
    """The rows of each sub-block among rows by sub-block."""
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
    """The gradients of y_k = W_k x_k + b_k for x, for W, whose K parts along `dim` are the W_k, and for the b_k (K, …).

    Args:
        gradient: of y (M, …), by sub-block, as is x.
        sizes: rows of each sub-block.
        needed: which of the three; the others are None.
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


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """As torch's own linear layers do under autocast; writing into given memory, as is done here, doesn't by itself."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]
