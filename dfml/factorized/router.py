"""The router, which chooses the sub-block of each token or image.

See §3.2 of Wang et al., CVPR 2023; the published code calls it `gate`. M tokens (or images), K
sub-blocks.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.precision import tf32


class Routing:
    """The choice of a sub-block for each of M tokens, and the rearrangement of tokens by sub-block.

    Args:
        p: the probabilities (M, K), with gradient.
        p_of_router: the same probabilities; their gradient reaches the router's weights but not its
            input. None: `p`.

    Attributes:
        chosen: the sub-block of each token (M,), argmax p.
        onehot: the choice as 0 and 1 (M, K), in the dtype of p.
    """

    def __init__(self, p: Tensor, p_of_router: Tensor | None = None) -> None:
        self.p = p
        self.p_of_router = p if p_of_router is None else p_of_router
        self.chosen = p.detach().argmax(dim=-1)
        # torch's one_hot waits for the device, to check its input. torch.compile can't trace a
        # cached property, so this isn't one.
        self.onehot = (self.chosen[:, None] == torch.arange(p.shape[-1], device=p.device)).to(p.dtype)

    @cached_property
    def order(self) -> Tensor:
        """Return the tokens by sub-block (M,), in their old order within a sub-block."""
        return torch.argsort(self.chosen, stable=True)

    @cached_property
    def inverse(self) -> Tensor:
        """Return the permutation (M,) that undoes `order`."""
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(self.order), device=self.order.device)
        return inverse

    @cached_property
    def sizes(self) -> list[int]:
        """Return the number of tokens of each sub-block; waits for the device."""
        sizes: list[int] = torch.bincount(self.chosen, minlength=self.p.shape[-1]).tolist()
        return sizes

    @cached_property
    def ends(self) -> Tensor:
        """Return where each sub-block's tokens end in `order` (K,), int32, on the device."""
        return self.onehot.sum(dim=0).cumsum(dim=0).to(torch.int32)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split x (M, …) into K tensors: the rows of each sub-block."""
        rearranged: Tensor = _Rearrange.apply(x, self.order, self.inverse)
        return rearranged.split(self.sizes)

    def join(self, parts: list[Tensor]) -> Tensor:
        """Concatenate the results of `split` to (M, …), in the original order."""
        joined: Tensor = _Rearrange.apply(torch.cat(parts), self.inverse, self.order)
        return joined


class Router(nn.Module):
    """A linear map without bias and an argmax over K sub-blocks: p = softmax(G z / temperature).

    Args:
        width: the number C of input channels.
        num_sub_blocks: the number K of sub-blocks.

    Attributes:
        temperature: the softmax's temperature; it changes no choice, only the spread of the
            gradient. 1 as published.
    """

    def __init__(self, width: int, num_sub_blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_sub_blocks, width))
        # The initialization of torch.nn.Linear, and so of the published code.
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.temperature = 1.0

    def forward(self, z: Tensor) -> Routing:
        """Route z (…, C), with all dimensions but the last flattened to M."""
        # In full float32: with fewer bits sub-blocks might tie, and a recomputed pass might choose
        # another.
        with torch.autocast(z.device.type, enabled=False):
            logits = _Logits.apply(z.flatten(0, -2).to(self.weight.dtype), self.weight)
            if self.temperature != 1:
                logits = tuple(one / self.temperature for one in logits)
            return Routing(*(one.softmax(dim=-1) for one in logits))


def linear_without_tf32(z: Tensor, weight: Tensor) -> Tensor:
    """Return z Wᵀ in full float32."""
    with tf32(allowed=False):
        return F.linear(z, weight)


linear_operator = torch.library.custom_op(
    "dfml::linear_without_tf32",
    linear_without_tf32,
    mutates_args=(),
    schema="(Tensor z, Tensor weight) -> Tensor",
)
linear_operator.register_fake(F.linear)


class _Logits(torch.autograd.Function):
    """G z twice, computed once: with the usual gradient, and with a gradient for G only."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z, weight)
        # torch.compile can't trace the setting of TF32, but calls an operator that sets it.
        compiling = torch.compiler.is_dynamo_compiling()
        logits = linear_operator(z, weight) if compiling else linear_without_tf32(z, weight)
        return logits, logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_weight_alone: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, weight = ctx.saved_tensors
        of_z, of_weight = ctx.needs_input_grad
        return gradient @ weight if of_z else None, (gradient + of_weight_alone).T @ z if of_weight else None


class _Rearrange(torch.autograd.Function):
    """Rows in another order. The backward pass of indexing would add up rows, which is slower."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None
