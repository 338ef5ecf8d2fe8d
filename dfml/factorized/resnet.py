"""Factorized ResNets: `Bottleneck` (ResNet-50 and deeper) and `BasicBlock` (ResNet-18, -34).

The sub-blocks of a bottleneck share its first convolution; sub-block k is part k of the second
convolution's output channels, with its part of the batch norm, and the matching part of the third's
input channels. The sub-blocks of a basic block share no convolution: sub-block k is part k of the
first convolution's output channels and the matching part of the second's input channels. The last
batch norm acts on the sum.
"""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from dfml.errors import InvalidInput
from dfml.factorized.backbone import FactorizedBackbone
from dfml.factorized.convolution import FactorizedConvBlock, Part, convolve_part, normalize_part


class _Residual(FactorizedConvBlock):
    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        shortcut = x if self.block.downsample is None else self.block.downsample(x)
        return (y + shortcut).relu()

    def to_sum(self, direction: Tensor, out: Tensor) -> Tensor:
        return direction * (out > 0)


class FactorizedBottleneck(_Residual):
    """x ← relu(shortcut(x) + bn3(Σ_k r_k W_k h_k)), h_k part k of conv2's output."""

    def __init__(self, block: Bottleneck, num_sub_blocks: int) -> None:
        super().__init__(block, num_sub_blocks, block.conv1.in_channels, block.conv3, block.bn3)

    def shared(self, x: Tensor) -> Tensor:
        u: Tensor = self.block.act1(self.block.bn1(self.block.conv1(x)))
        return u

    def expand(self, u: Tensor, part: Part) -> Tensor:
        block = self.block
        h: Tensor = block.act2(normalize_part(block.bn2, convolve_part(block.conv2, u, part), part))
        return h


class FactorizedBasicBlock(_Residual):
    """x ← relu(shortcut(x) + bn2(Σ_k r_k W_k h_k)), h_k part k of conv1's output."""

    def __init__(self, block: BasicBlock, num_sub_blocks: int) -> None:
        super().__init__(block, num_sub_blocks, block.conv1.in_channels, block.conv2, block.bn2)

    def expand(self, u: Tensor, part: Part) -> Tensor:
        block = self.block
        h: Tensor = block.act1(normalize_part(block.bn1, convolve_part(block.conv1, u, part), part))
        return h


KINDS: dict[type[nn.Module], type[FactorizedBottleneck] | type[FactorizedBasicBlock]] = {
    Bottleneck: FactorizedBottleneck,
    BasicBlock: FactorizedBasicBlock,
}


class FactorizedResNet(FactorizedBackbone):
    """A timm `ResNet` with factorized blocks; see `factorize`."""

    def __init__(self, model: ResNet, num_sub_blocks: int, chosen: frozenset[int]) -> None:
        super().__init__()
        self.num_sub_blocks = num_sub_blocks
        self.num_features = model.num_features
        self.blocks = nn.ModuleList(
            KINDS[type(block)](block, num_sub_blocks) if i in chosen else block
            for i, block in enumerate(_blocks(model))
        )
        for stage in STAGES:
            setattr(model, stage, nn.Identity())  # the blocks are in self.blocks now
        self.model = model

    @staticmethod
    def widths(model: ResNet) -> list[dict[str, int]]:
        """Return for each block the counts that K must divide, by name.

        Raises:
            InvalidInput: a block has attention, anti-aliasing, grouped convolutions or another
                activation, for which no exact factorization is known.
        """
        widths: list[dict[str, int]] = []
        for i, block in enumerate(_blocks(model)):
            if not _is_plain(block):
                raise InvalidInput(
                    f"block {i} of this ResNet isn't a plain BasicBlock or Bottleneck (with ReLU and batch norm, "
                    "without attention, anti-aliasing or groups); choose a variant such as resnet50"
                )
            hidden = (block.conv3 if isinstance(block, Bottleneck) else block.conv2).in_channels
            widths.append({f"{hidden} hidden channels": hidden})
        return widths

    def stem(self, images: Tensor) -> Tensor:
        model = self.model
        x: Tensor = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        return x

    def head(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.forward_head(x, pre_logits=True)
        return features


STAGES = ("layer1", "layer2", "layer3", "layer4")


def _blocks(model: ResNet) -> list[Any]:
    return [block for stage in STAGES for block in getattr(model, stage)]


def _is_plain(block: Any) -> bool:
    if type(block) not in KINDS or block.se is not None or not isinstance(block.aa, nn.Identity):
        return False
    if not isinstance(block.drop_block, nn.Identity):
        return False
    modules = list(block.modules())
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    ungrouped = all(m.groups == 1 for m in modules if isinstance(m, nn.Conv2d))
    last = block.act3 if isinstance(block, Bottleneck) else block.act2
    return ungrouped and len(norms) >= 2 and isinstance(last, nn.ReLU)
