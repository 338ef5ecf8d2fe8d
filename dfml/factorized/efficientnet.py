"""Factorized EfficientNet-Lite, MobileNetV2 and other timm models of inverted residuals without squeeze-and-excitation.

Sub-block k is the k-th of K parts of the expanded channels, through expansion, depthwise convolution and projection; the
last batch norm acts on the sum. One router a block decides per image, on globally pooled features.
"""

from __future__ import annotations

from typing import Any

from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from dfml.errors import InvalidInput
from dfml.factorized.backbone import FactorizedBackbone
from dfml.factorized.convolution import FactorizedConvBlock, Part, convolve_part, normalise_part


class FactorizedInvertedResidual(FactorizedConvBlock):
    """x ← [x +] bn(Σ_k r_k W_k h_k), h_k the k-th part of the depthwise convolution's output."""

    def __init__(self, block: InvertedResidual, routers: int) -> None:
        super().__init__(block, routers, block.conv_pw.in_channels, block.conv_pwl, block.bn3)

    def expand(self, u: Tensor, part: Part) -> Tensor:
        block = self.block
        h = normalise_part(block.bn1, convolve_part(block.conv_pw, u, part), part)
        return normalise_part(block.bn2, convolve_part(block.conv_dw, h, part), part)

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        return y + x if self.block.has_skip else y


class FactorizedEfficientNet(FactorizedBackbone):
    """A timm `EfficientNet` whose inverted residuals are factorized; see `factorize`.

    The first stage's depthwise-separable block expands nothing, so there is nothing to cut: it belongs to the stem, and
    blocks are counted from the one after it.
    """

    def __init__(self, model: EfficientNet, routers: int, chosen: frozenset[int]) -> None:
        super().__init__()
        self.routers = routers
        self.num_features = model.num_features
        stem, blocks = _divide(model)
        self.blocks = nn.ModuleList(
            FactorizedInvertedResidual(block, routers) if i in chosen else block for i, block in enumerate(blocks)
        )
        model.blocks = nn.Sequential(*stem)
        self.model = model

    @staticmethod
    def widths(model: EfficientNet) -> list[dict[str, int]]:
        """For each block the counts that K must divide, each with its name.

        Raises:
            InvalidInput: a block after the first inverted residual is of another kind, or has squeeze-and-excitation or
                anti-aliasing, so that no exact factorization is known for it.
        """
        widths: list[dict[str, int]] = []
        for block in _divide(model)[1]:
            plain = type(block) is InvertedResidual and block.conv_s2d is None
            if not plain or not isinstance(block.se, nn.Identity) or not isinstance(block.aa, nn.Identity):
                raise InvalidInput(
                    f"a {type(block).__name__} of this EfficientNet isn't a plain inverted residual (no squeeze-and-excitation): choose "
                    "a Lite or MobileNetV2 variant such as tf_efficientnet_lite0"
                )
            expanded = block.conv_pwl.in_channels
            widths.append({f"{expanded} expanded channels": expanded})
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


def _divide(model: EfficientNet) -> tuple[list[Any], list[Any]]:
    """The blocks before the first inverted residual, and those from it on."""
    blocks = [block for stage in model.blocks for block in stage]
    first = next((i for i, block in enumerate(blocks) if isinstance(block, InvertedResidual)), len(blocks))
    return blocks[:first], blocks[first:]
