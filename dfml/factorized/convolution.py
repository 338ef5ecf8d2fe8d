"""What convolutional families share: a block whose hidden channels are cut into K parts, routed per image.

B images, C channels in, E hidden channels, E/K a sub-block, D channels out. A block is

    u = shared(x);  h = expand(u), channel by channel of E;  y = bn(Σ_k r_k W_k h_k);  x ← finish(y, x)

with W_k the part of the last convolution that reads h_k, which has no bias. The batch norm acts on the sum, with fixed
statistics: y = slope · Σ_k r_k W_k h_k + shift, so a_k = slope · W_k h_k.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.factorized.backbone import BlockOutput, FactorizedBlock, RoutingSums
from dfml.factorized.router import Router, Routing
from dfml.factorized.sub_blocks import inner, straight_through, with_slope

Part = tuple[int, int]  # k, K: the k-th of K equal parts of the hidden channels
WHOLE: Part = (0, 1)


class FactorizedConvBlock(FactorizedBlock):
    """A family gives `shared`, `expand`, `finish`, and says with which convolution and batch norm the block ends."""

    def __init__(self, block: Any, routers: int, width: int, project: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.router = Router(width, routers)
        self.block: Any = block  # timm's modules have no types of their own
        self.routers = routers
        self._last = (project, bn)  # in a tuple, so that they aren't registered twice

    def shared(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) to what every sub-block reads."""
        return x

    def expand(self, u: Tensor, part: Part) -> Tensor:
        """u to the hidden channels of one part, (B, E/K, H, W)."""
        raise NotImplementedError

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        """The block's output from its residual branch y and its input x."""
        raise NotImplementedError

    def to_sum(self, direction: Tensor, out: Tensor) -> Tensor:
        """A direction at the block's output `out`, taken back to y."""
        return direction

    def full(self, x: Tensor) -> Tensor:
        project, bn = self._last
        return self.finish(bn(project(self.expand(self.shared(x), WHOLE))), x)

    def routed(self, x: Tensor) -> Tensor:
        return self._routed(x, exact=False)[0]

    def both(self, full: Tensor, routed: Tensor, sparse: bool) -> BlockOutput:
        full_out = self.full(full)
        out, routing, values = self._routed(routed, exact=not sparse)
        with torch.no_grad():
            difference = out - full_out
            norm = difference.norm(dim=1, keepdim=True)  # a position's, over its channels
            unit = difference / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            slope = inner(self.to_sum(unit, out), values, routing)
        distance = with_slope(norm.sum(), routing, slope)
        return BlockOutput(full_out, out, distance, *RoutingSums.of(routing))

    def _routed(self, x: Tensor, exact: bool) -> tuple[Tensor, Routing, Tensor]:
        """The block's output, the routing, and the values of a_k, as `straight_through` takes them."""
        project, bn = self._last
        routing = self.router(pooled(x))
        u = self.shared(x)
        weights = project.weight.chunk(self.routers, dim=1)
        parts = [
            _convolve(project, self.expand(images, (k, self.routers)), weights[k], groups=1)
            for k, images in enumerate(routing.split(u))
            if len(images)
        ]
        summed = routing.join(parts)  # W_k h_k of the chosen k, (B, D, H, W)
        with torch.no_grad():
            assert bn.running_var is not None  # the statistics are the pretrained ones
            slope = (bn.weight * torch.rsqrt(bn.running_var + bn.eps))[:, None, None]
            if exact:
                h = self.expand(u, WHOLE).chunk(self.routers, dim=1)
                values = (
                    torch.stack([_convolve(project, h_k, w, groups=1) for h_k, w in zip(h, weights, strict=True)])
                    * slope
                )
            else:
                values = (summed * slope)[None]
        return self.finish(straight_through(bn(summed), routing, values), x), routing, values


def pooled(x: Tensor) -> Tensor:
    """(B, C, H, W) to its mean over positions (B, C): what routers read."""
    return x.mean(dim=(2, 3))


def convolve_part(conv: nn.Conv2d, x: Tensor, part: Part) -> Tensor:
    """The k-th of K parts of a convolution's output channels; a depthwise one reads the same part of its input, x."""
    k, K = part
    depthwise = conv.groups > 1
    return _convolve(conv, x, conv.weight.chunk(K)[k], groups=conv.groups // K if depthwise else 1)


def _convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    if isinstance(conv, Conv2dSame):
        x = pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
        return F.conv2d(x, weight, None, conv.stride, 0, conv.dilation, groups)
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, groups)


def normalise_part(bn: nn.BatchNorm2d, h: Tensor, part: Part) -> Tensor:
    """The k-th of K parts of a batch norm with fixed statistics, and of the activation that timm may keep in it."""
    k, K = part
    tensors: Any = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    mean, var, weight, bias = (tensor.chunk(K)[k] for tensor in tensors)
    h = F.batch_norm(h, mean, var, weight, bias, training=False, eps=bn.eps)
    return bn.act(h) if isinstance(bn, BatchNormAct2d) else h
