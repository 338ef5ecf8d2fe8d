"""Factorized EfficientNet-Lite, MobileNetV2, and other timm models of plain inverted residuals.

Sub-block k is the k-th of K parts of the expanded channels, through expansion, depthwise
convolution and projection; the last batch norm acts on the sum. One router per block decides per
image, on globally pooled features.
"""

from __future__ import annotations

from typing import Any

from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from dfml.errors import InvalidInput
from dfml.factorized.backbone import FactorizedBackbone
from dfml.factorized.convolution import FactorizedConvBlock, Part, convolve_part, normalize_part


class FactorizedInvertedResidual(FactorizedConvBlock):
    """x ← [x +] bn(Σ_k r_k W_k h_k), h_k part k of the depthwise convolution's output."""

    def __init__(self, block: InvertedResidual, num_sub_blocks: int) -> None:
        super().__init__(block, num_sub_blocks, block.conv_pw.in_channels, block.conv_pwl, block.bn3)

    def expand(self, u: Tensor, part: Part) -> Tensor:
        block = self.block
        h = normalize_part(block.bn1, convolve_part(block.conv_pw, u, part), part)
        return normalize_part(block.bn2, convolve_part(block.conv_dw, h, part), part)

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        return y + x if self.block.has_skip else y


class FactorizedEfficientNet(FactorizedBackbone):
    """A timm `EfficientNet` whose inverted residuals are factorized; see `factorize`.

    The first stage's depthwise-separable block has no expanded channels to cut: it belongs to the
    stem, and blocks are counted from the next block on.
    """

    def __init__(self, model: EfficientNet, num_sub_blocks: int, chosen: frozenset[int]) -> None:
        super().__init__()
        self.num_sub_blocks = num_sub_blocks
        self.num_features = model.num_features
        stem, blocks = _divide(model)
        self.blocks = nn.ModuleList(
            FactorizedInvertedResidual(block, num_sub_blocks) if i in chosen else block
            for i, block in enumerate(blocks)
        )
        model.blocks = nn.Sequential(*stem)
        self.model = model

    @staticmethod
    def widths(model: EfficientNet) -> list[dict[str, int]]:
        """Return for each block the counts that K must divide, by name.

        Raises:
            InvalidInput: a block after the first inverted residual is of another kind, or has
                squeeze-and-excitation or anti-aliasing, for which no exact factorization is known.
        """
        widths: list[dict[str, int]] = []
        for block in _divide(model)[1]:
            plain = type(block) is InvertedResidual and block.conv_s2d is None
            if not plain or not isinstance(block.se, nn.Identity) or not isinstance(block.aa, nn.Identity):
                raise InvalidInput(
                    f"a {type(block).__name__} of this EfficientNet isn't a plain inverted residual without "
                    "squeeze-and-excitation; choose a Lite or MobileNetV2 variant such as tf_efficientnet_lite0"
                )
            expanded = block.conv_pwl.in_channels
            widths.append({f"{expanded} expanded channels": expanded})
        if not widths:
            raise InvalidInput("this EfficientNet has no inverted residual to factorize; choose another backbone")
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
    """Return the blocks before the first inverted residual, and the blocks from it on."""
    blocks = [block for stage in model.blocks for block in stage]
    first = next((i for i, block in enumerate(blocks) if isinstance(block, InvertedResidual)), len(blocks))
    return blocks[:first], blocks[first:]
