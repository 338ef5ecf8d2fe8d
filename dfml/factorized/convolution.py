"""The base of convolutional families: a block with K parts of hidden channels, routed per image.

B images, C channels in, E hidden channels, E/K per sub-block, D channels out. A block is

    u = shared(x);  h = expand(u), each part alone;  y = bn(Σ_k r_k W_k h_k);  x ← finish(y, x)

with W_k the part of the last convolution, which has no bias, that reads h_k. The batch norm acts on
the sum with fixed statistics: y = bn_scale · Σ_k r_k W_k h_k + shift, so a_k = bn_scale · W_k h_k.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from dfml.factorized.backbone import BlockOutput, FactorizedBlock, RoutingSums
from dfml.factorized.masked import MaskedOutput, factors, masked_distance
from dfml.factorized.router import Router, Routing
from dfml.factorized.sub_blocks import dot_with_sub_blocks, straight_through, with_grad_p

Part = tuple[int, int]  # k, K: the k-th of K equal parts of the hidden channels
WHOLE: Part = (0, 1)


class FactorizedConvBlock(FactorizedBlock):
    """A convolutional block, whose family defines `shared`, `expand` and `finish`.

    Args:
        block: timm's block.
        num_sub_blocks: the number K of sub-blocks.
        width: the number C of channels that the router reads.
        project: the last convolution of the block.
        bn: the batch norm after `project`.
    """

    def __init__(self, block: Any, num_sub_blocks: int, width: int, project: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.router = Router(width, num_sub_blocks)
        self.block: Any = block  # timm's modules have no types of their own
        self.num_sub_blocks = num_sub_blocks
        self._last = (project, bn)  # in a tuple, so that they aren't registered twice

    def shared(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the input u of all sub-blocks."""
        return x

    def expand(self, u: Tensor, part: Part) -> Tensor:
        """Map u to the hidden channels of one part, (B, E/K, H, W)."""
        raise NotImplementedError

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        """Compute the block's output from its residual branch y and its input x."""
        raise NotImplementedError

    def to_sum(self, direction: Tensor, out: Tensor) -> Tensor:
        """Propagate a direction at the block's output `out` back to y."""
        return direction

    def full(self, x: Tensor) -> Tensor:
        project, bn = self._last
        return self.finish(bn(project(self.expand(self.shared(x), WHOLE))), x)

    def routed(self, x: Tensor) -> Tensor:
        return self._routed(x, exact=False)[0]

    def both(self, full: Tensor, routed: Tensor, sparse: bool) -> BlockOutput:
        full_out = self.full(full)
        out, routing, sub_block_outputs = self._routed(routed, exact=not sparse)
        with torch.no_grad():
            difference = out - full_out
            norm = difference.norm(dim=1, keepdim=True)  # per position, over its channels
            unit = difference / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            grad_p = dot_with_sub_blocks(self.to_sum(unit, out), sub_block_outputs, routing)
        distance = with_grad_p(norm.sum(), routing, grad_p)
        return BlockOutput(full_out, out, distance, *RoutingSums.of(routing))

    def masked(self, streams: Tensor, sparse: bool) -> MaskedOutput:
        project, bn = self._last
        images, K = len(streams) // 2, self.num_sub_blocks
        routing = self.router(pooled(streams[images:]))
        h = self.expand(self.shared(streams), WHOLE)
        factor = factors(routing, sparse).to(h.dtype).repeat_interleave(h.shape[1] // K, dim=1)
        out = self.finish(bn(project(h * factor[:, :, None, None])), streams)
        with torch.no_grad():
            full, routed = out.chunk(2)
            difference = routed - full
            norm = difference.norm(dim=1, keepdim=True)
            unit = self.to_sum(difference / norm.clamp_min(torch.finfo(norm.dtype).tiny), routed)
            # ⟨u, a_k⟩ = Σ over part k of (Wᵀu) ⊙ h: no a_k is in memory.
            own = h[images:]
            back = _convolve_back(project, (unit * self._bn_scale()).to(own.dtype), own)
            grad_p = (back * own).unflatten(1, (K, -1)).sum(dim=(2, 3, 4))
        distance = masked_distance(norm, grad_p, routing, sparse)
        return MaskedOutput(out, distance, (routing.p,), (routing.onehot,))

    def routed_static(self, x: Tensor) -> Tensor:
        # Grouping whole images would need their number; computing all sub-blocks doesn't.
        project, bn = self._last
        h = self.expand(self.shared(x), WHOLE)
        chosen = self.router(pooled(x)).onehot.to(h.dtype).repeat_interleave(h.shape[1] // self.num_sub_blocks, dim=1)
        return self.finish(bn(project(h * chosen[:, :, None, None])), x)

    def _bn_scale(self) -> Tensor:
        """Return the scale (D, 1, 1) that the last batch norm applies to the sum."""
        bn = self._last[1]
        assert bn.running_var is not None  # the pretrained statistics
        return (bn.weight * torch.rsqrt(bn.running_var + bn.eps))[:, None, None]

    def _routed(self, x: Tensor, exact: bool) -> tuple[Tensor, Routing, Tensor]:
        """Return the block's output, the routing, and the a_k in the form of `straight_through`."""
        project, bn = self._last
        routing = self.router(pooled(x))
        u = self.shared(x)
        weights = project.weight.chunk(self.num_sub_blocks, dim=1)
        parts = [
            _convolve(project, self.expand(images, (k, self.num_sub_blocks)), weights[k], groups=1)
            for k, images in enumerate(routing.split(u))
            if len(images)
        ]
        summed = routing.join(parts)  # W_k h_k of the chosen k, (B, D, H, W)
        with torch.no_grad():
            bn_scale = self._bn_scale()
            if exact:
                h = self.expand(u, WHOLE).chunk(self.num_sub_blocks, dim=1)
                sub_block_outputs = (
                    torch.stack([_convolve(project, h_k, w, groups=1) for h_k, w in zip(h, weights, strict=True)])
                    * bn_scale
                )
            else:
                sub_block_outputs = (summed * bn_scale)[None]
        y = straight_through(bn(summed), routing, sub_block_outputs)
        return self.finish(y, x), routing, sub_block_outputs


def pooled(x: Tensor) -> Tensor:
    """Average x (B, C, H, W) over positions to (B, C), the input of routers."""
    return x.mean(dim=(2, 3))


def convolve_part(conv: nn.Conv2d, x: Tensor, part: Part) -> Tensor:
    """Compute part k of K of a convolution's output channels.

    If the convolution is depthwise, x is the same part of its input.
    """
    k, K = part
    depthwise = conv.groups > 1
    return _convolve(conv, x, conv.weight.chunk(K)[k], groups=conv.groups // K if depthwise else 1)


def _convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    if isinstance(conv, Conv2dSame):
        x = pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
        return F.conv2d(x, weight, None, conv.stride, 0, conv.dilation, groups)
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, groups)


def _convolve_back(conv: nn.Conv2d, direction: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of ⟨direction, conv(x)⟩ for the input x, of an ungrouped convolution."""
    padding: Any = conv.padding
    shape = x.shape
    if isinstance(conv, Conv2dSame):
        padding, shape = 0, pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation)).shape
    back = conv2d_input(shape, conv.weight.to(x.dtype), direction, conv.stride, padding, conv.dilation)
    # `pad_same` puts the odd pixel of padding at the end.
    top, left = ((shape[i] - x.shape[i]) // 2 for i in (2, 3))
    return back[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def normalize_part(bn: nn.BatchNorm2d, h: Tensor, part: Part) -> Tensor:
    """Apply part k of K of a batch norm with fixed statistics, and of its activation if any."""
    k, K = part
    tensors: Any = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    mean, var, weight, bias = (tensor.chunk(K)[k] for tensor in tensors)
    h = F.batch_norm(h, mean, var, weight, bias, training=False, eps=bn.eps)
    return bn.act(h) if isinstance(bn, BatchNormAct2d) else h
