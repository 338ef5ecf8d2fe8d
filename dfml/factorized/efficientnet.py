"""Factorized EfficientNet-Lite and other timm models of inverted residuals without squeeze-and-excitation.

Sub-block k is the k-th of K parts of the expanded channels, through expansion, depthwise convolution and projection; the
last batch norm acts on the sum. One router a block decides per image, on globally pooled features.
"""

from __future__ import annotations

from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.errors import InvalidInput
from dfml.factorized.backbone import FactorizedBackbone, FactorizedBlock, Path
from dfml.factorized.router import Router
from dfml.factorized.sub_blocks import routing_distance, scale_parts


class FactorizedInvertedResidual(FactorizedBlock):
    """x ← [x +] bn(Σ_k r_k W_k h_k), h_k the k-th part of the depthwise convolution's output; W_k has no bias."""

    def __init__(self, block: InvertedResidual, routers: int) -> None:
        super().__init__()
        self.router = Router(block.conv_pw.in_channels, routers)
        self.block = block
        self.routers = routers

    def forward(self, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        block = self.block
        h = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x))))  # (B, E, H, W)
        z = x.mean(dim=(2, 3))  # (B, C)
        r = self.choose(self.router, z, path)
        y = block.bn3(block.conv_pwl(h if r is None else self._scale(h, r)))
        y = y + x if block.has_skip else y
        if path != "both":
            return y, y.new_zeros(())
        y_full, y_routed = y.chunk(2)
        h_routed, z_routed = h.chunk(2)[1], z.chunk(2)[1]
        distance = routing_distance(
            y_full,
            y_routed,
            self.router(z_routed.detach()),
            along=lambda direction: self._along(direction, h_routed),
            channels=1,
        )
        return y, distance

    @staticmethod
    def _scale(h: Tensor, r: Tensor) -> Tensor:
        ones = h.new_ones(h.shape[:2])
        return h * scale_parts(ones, r)[:, :, None, None]

    def _along(self, direction: Tensor, h: Tensor) -> Tensor:
        """Σ over positions of ⟨direction, a_k⟩, (B, K): back through bn3 (fixed statistics) and the projection."""
        bn = self.block.bn3
        slope = bn.weight * (bn.running_var + bn.eps).rsqrt()  # (C,)
        back = F.conv2d(direction * slope[:, None, None], self.block.conv_pwl.weight.transpose(0, 1))  # (B, E, H, W)
        return (back * h).sum(dim=(2, 3)).unflatten(1, (self.routers, -1)).sum(dim=2)


class FactorizedEfficientNet(FactorizedBackbone):
    """A timm `EfficientNet` whose inverted residuals are factorized; see `factorize`.

    The first stage's depthwise-separable block expands nothing, so there is nothing to cut: it belongs to the stem.
    """

    def __init__(self, model: EfficientNet, routers: int) -> None:
        super().__init__()
        self.routers = routers
        self.num_features = model.num_features
        blocks = [block for stage in model.blocks for block in stage]
        first = next(i for i, block in enumerate(blocks) if isinstance(block, InvertedResidual))
        self.blocks = nn.ModuleList(FactorizedInvertedResidual(block, routers) for block in blocks[first:])
        model.blocks = nn.Sequential(*blocks[:first])
        self.model = model

    @staticmethod
    def widths(model: EfficientNet) -> dict[str, int]:
        """The counts that K must divide, each with its name.

        Raises:
            InvalidInput: a block after the first inverted residual is of another kind, or has squeeze-and-excitation or
                anti-aliasing, so that no exact factorization is known for it.
        """
        blocks = [block for stage in model.blocks for block in stage]
        while blocks and not isinstance(blocks[0], InvertedResidual):
            blocks.pop(0)
        widths: dict[str, int] = {}
        for block in blocks:
            plain = type(block) is InvertedResidual and block.conv_s2d is None
            if not plain or not isinstance(block.se, nn.Identity) or not isinstance(block.aa, nn.Identity):
                raise InvalidInput(
                    f"a {type(block).__name__} of this EfficientNet isn't a plain inverted residual (no squeeze-and-excitation): choose "
                    "a Lite or MobileNetV2 variant such as tf_efficientnet_lite0"
                )
            expanded = block.conv_pwl.in_channels
            widths[f"{expanded} expanded channels"] = expanded
        if not widths:
            raise InvalidInput("this EfficientNet has no inverted residual to factorize: choose another backbone")
        return widths

    def stem(self, images: Tensor) -> Tensor:
        model = self.model
        x: Tensor = model.blocks(model.bn1(model.conv_stem(images)))
        return x

    def head(self, x: Tensor) -> Tensor:
        model = self.model
        features: Tensor = model.forward_head(model.bn2(model.conv_head(x)), pre_logits=True)
        return features
