"""The masked design: another way to compute the same training step, to compare the project's with.

The full and the routed stream are one batch of 2B images. Every sub-block is computed for every
token, and the choice r = onehot + (p − sg p) is a factor on the hidden units of each sub-block.
Autograd then yields the gradients that the project's own functions compute: that of the chosen
sub-block for weights and stream, and ⟨gradient, a_k⟩ for every p_k. No shape depends on the data,
the host never waits for the GPU, and all of it can be compiled.

M tokens, K sub-blocks, P hidden units per sub-block, N tokens per image, C channels.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.factorized.backbone import BothPaths, FactorizedBackbone, FactorizedBlock, RoutingSums
from dfml.factorized.convolution import FactorizedConvBlock
from dfml.factorized.router import Router
from dfml.factorized.sub_blocks import SubBlockSum
from dfml.factorized.vit import FactorizedViTBlock

# A block's output (2B, …), its share of the distance, and its parts of RoutingSums.
BlockResult = tuple[Tensor, Tensor, tuple[Tensor, ...]]


class Masked:
    """Let a factorized backbone compute both paths by the masked design, while this is entered."""

    def __init__(self, backbone: FactorizedBackbone, compiled: bool = False) -> None:
        self.backbone = backbone
        is_vit = any(isinstance(block, FactorizedViTBlock) for block in backbone.blocks)
        self.block: Callable[..., BlockResult] = _vit_block if is_vit else _conv_block
        if compiled:
            self.block = torch.compile(self.block)

    def __enter__(self) -> Masked:
        run_block = self.block

        def both(backbone: FactorizedBackbone, full: Tensor) -> BothPaths:
            return _both(backbone, full, run_block)

        self.backbone._both = types.MethodType(both, self.backbone)
        return self

    def __exit__(self, *error: object) -> None:
        del self.backbone._both


def _both(backbone: FactorizedBackbone, full: Tensor, run_block: Callable[..., BlockResult]) -> BothPaths:
    x, distances, found = torch.cat([full, full]), [], []
    for block in backbone.blocks:
        if isinstance(block, FactorizedBlock):
            x, distance, sums = run_block(block, x, backbone.sparse)
            distances.append(distance)
            found.append(sums)
        else:
            x = block(x)
    full, routed = backbone.head(x).chunk(2)
    sums = RoutingSums(*map(torch.cat, zip(*found, strict=True)))
    return BothPaths(full, routed, torch.stack(distances).mean(), sums)


def _vit_block(block: FactorizedViTBlock, x: Tensor, sparse: bool) -> BlockResult:
    images = len(x) // 2
    z = block.norm1(x)
    p, p_of_router, onehot, r = _choose(block.attn_router, z[images:].flatten(0, 1), sparse)
    # The concatenated heads: the block has moved attention's projection to attn_sum.
    hidden = block.attn(z)
    x = x + block.attn_scale(_sum(block.attn_sum, hidden, r))
    distance = _distance(x, hidden, block.attn_sum, block.attn_scale, p_of_router, onehot, sparse)
    found = [_routing_sums(p, onehot)]
    p, p_of_router, onehot, r = _choose(block.mlp_router, x[images:].flatten(0, 1), sparse)
    hidden = block.mlp(block.norm2(x))
    x = x + block.mlp_scale(_sum(block.mlp_sum, hidden, r))
    distance = distance + _distance(x, hidden, block.mlp_sum, block.mlp_scale, p_of_router, onehot, sparse)
    found.append(_routing_sums(p, onehot))
    return x, distance, tuple(torch.stack(parts) for parts in zip(*found, strict=True))


def _conv_block(block: FactorizedConvBlock, x: Tensor, sparse: bool) -> BlockResult:
    project, bn = block._last
    images, K = len(x) // 2, block.num_sub_blocks
    p, p_of_router, onehot, r = _choose(block.router, x[images:].mean(dim=(2, 3)), sparse)
    hidden = block.expand(block.shared(x), (0, 1))
    factor = torch.cat([torch.ones_like(r), r]).to(hidden.dtype).repeat_interleave(hidden.shape[1] // K, dim=1)
    y = block.finish(bn(project(hidden * factor[:, :, None, None])), x)
    with torch.no_grad():
        full, routed = y.chunk(2)
        difference = routed - full
        norm = difference.norm(dim=1, keepdim=True)
        unit = block.to_sum(difference / norm.clamp_min(torch.finfo(norm.dtype).tiny), routed)
        unit = unit * (bn.weight * torch.rsqrt(bn.running_var + bn.eps))[:, None, None]
        own = hidden[images:]
        size = [own.shape[0], project.weight.shape[1], *own.shape[2:]]
        weight, unit = project.weight.to(own.dtype), unit.to(own.dtype)
        back = torch.nn.grad.conv2d_input(size, weight, unit, project.stride, project.padding)
        grad_p = (back * own).unflatten(1, (K, -1)).sum(dim=(2, 3, 4))
    sums = tuple(part[None] for part in _routing_sums(p, onehot))
    return y, _with_grad_p(norm, p_of_router, grad_p, onehot, sparse), sums


def _choose(router: Router, z: Tensor, sparse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Route z (M, C).

    Returns:
        Each (M, K): p; p with a gradient for the router's weights alone; the one-hot choice; the
        factor r.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = z.to(router.weight.dtype)
        p = (F.linear(z, router.weight) / router.temperature).softmax(-1)
        p_of_router = (F.linear(z.detach(), router.weight) / router.temperature).softmax(-1)
        onehot = F.one_hot(p.detach().argmax(-1), p.shape[-1]).to(p.dtype)
        # Zero, with a gradient.
        through = p - p.detach()
        return p, p_of_router, onehot, onehot + (through * onehot if sparse else through)


def _sum(layer: SubBlockSum, hidden: Tensor, r: Tensor) -> Tensor:
    """Sum the sub-blocks: all for the full stream, the chosen one for the routed stream.

    Args:
        hidden: (2B, N, K·P), the full stream first.
        r: (M, K).

    Returns:
        (2B, N, C).
    """
    full, routed = hidden.chunk(2)
    factor = r.to(hidden.dtype).view(*routed.shape[:-1], -1, 1)
    gated = (routed.unflatten(-1, (factor.shape[-2], -1)) * factor).flatten(-2)
    y = F.linear(torch.cat([full, gated]), layer.weight)
    full_bias = layer.bias.sum(0).expand(*full.shape[:-1], -1)
    routed_bias = (r @ layer.bias).view(*routed.shape[:-1], -1)
    return y + torch.cat([full_bias, routed_bias]).to(y.dtype)


def _distance(
    x: Tensor, hidden: Tensor, layer: SubBlockSum, scale: nn.Module, p_of_router: Tensor, onehot: Tensor, sparse: bool
) -> Tensor:
    """Return the routed stream's distance from the full one, with its gradient for the router."""
    with torch.no_grad():
        full, routed = x.chunk(2)
        difference = (routed - full).flatten(0, 1)
        norm = difference.norm(dim=-1, keepdim=True)
        direction = scale(difference)
        back = (direction.to(hidden.dtype) @ layer.weight.to(hidden.dtype)) * hidden.chunk(2)[1].flatten(0, 1)
        grad_p = back.unflatten(-1, (p_of_router.shape[-1], -1)).sum(-1) + direction @ layer.bias.T
        grad_p = grad_p / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return _with_grad_p(norm, p_of_router, grad_p, onehot, sparse)


def _with_grad_p(norm: Tensor, p_of_router: Tensor, grad_p: Tensor, onehot: Tensor, sparse: bool) -> Tensor:
    """Return the sum of norms with a gradient, as `dfml.factorized.sub_blocks.with_grad_p`."""
    grad_p = grad_p.to(p_of_router.dtype) * (onehot if sparse else 1.0)
    surrogate = (p_of_router * grad_p.detach()).sum()
    return norm.sum().detach() + surrogate - surrogate.detach()


def _routing_sums(p: Tensor, onehot: Tensor) -> tuple[Any, ...]:
    return onehot.sum(0), p.sum(0), torch.special.entr(p.detach()).sum()
