"""`factorize`, which converts a pretrained timm model to its exact factorization."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Protocol

from timm.layers import DropPath
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dfml.errors import InvalidInput
from dfml.factorized.backbone import FactorizedBackbone
from dfml.factorized.efficientnet import FactorizedEfficientNet
from dfml.factorized.resnet import FactorizedResNet
from dfml.factorized.vit import FactorizedViT


class Family(Protocol):
    """The interface of a backbone family for `factorize`; both calls may raise `InvalidInput`."""

    def __call__(self, model: nn.Module, num_sub_blocks: int, chosen: frozenset[int]) -> FactorizedBackbone: ...

    def widths(self, model: nn.Module) -> list[dict[str, int]]: ...


FAMILIES: dict[type[nn.Module], Family] = {
    VisionTransformer: FactorizedViT,
    ResNet: FactorizedResNet,
    EfficientNet: FactorizedEfficientNet,
}


def allowed_sub_block_counts(model: nn.Module, blocks: Iterable[int] | None = None) -> list[int]:
    """Return the numbers of sub-blocks K that divide the blocks of a timm model, ascending.

    Args:
        model: the timm model.
        blocks: the blocks to consider, counted from 0; None: all blocks.

    Raises:
        InvalidInput: the model is of no known family, or has no such block.
    """
    return _divisors(_widths(model, blocks))


def factorize(model: nn.Module, num_sub_blocks: int, blocks: Iterable[int] | None = None) -> FactorizedBackbone:
    """Cut blocks of `model` into `num_sub_blocks` sub-blocks each, whose sum is the original block.

    Args:
        model: the timm model of one of `FAMILIES`, pretrained or not; it isn't changed.
        num_sub_blocks: the number K of sub-blocks.
        blocks: the blocks to cut, counted from 0; None: all blocks. Others stay dense.

    Returns:
        A backbone whose full path is `model` up to pooled features, within float rounding. Its
        routers start at random.

    Raises:
        InvalidInput: the model is of no known family, has dropout or stochastic depth, or has no
            such block, or K doesn't divide a block.
    """
    blocks = None if blocks is None else frozenset(blocks)
    widths = _widths(model, blocks)
    for module in model.modules():
        rate = module.p if isinstance(module, nn.Dropout) else module.drop_prob if isinstance(module, DropPath) else 0.0
        # timm's convolutional models drop at this rate before the classifier.
        rate = rate or getattr(module, "drop_rate", 0.0)
        if rate:
            raise InvalidInput(
                f"{type(module).__name__} of this model drops at rate {rate}, and the two paths would drop different "
                "values; create the model with drop rates of 0"
            )
    allowed = _divisors(widths)
    if num_sub_blocks not in allowed:
        failing = {
            name: None
            for block in widths.values()
            for name, width in block.items()
            if num_sub_blocks < 1 or width % num_sub_blocks
        }
        raise InvalidInput(
            f"num_sub_blocks {num_sub_blocks} doesn't divide {' and '.join(list(failing)[:2])} of this backbone; "
            f"allowed: {', '.join(map(str, allowed))}"
        )
    return _family(model)(copy.deepcopy(model), num_sub_blocks, frozenset(widths))


def _widths(model: nn.Module, blocks: Iterable[int] | None) -> dict[int, dict[str, int]]:
    """Return for each block to factorize the counts that K must divide."""
    widths = dict(enumerate(_family(model).widths(model)))
    if blocks is None:
        return widths
    chosen = sorted(set(blocks))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(widths):
        given = ", ".join(map(str, chosen)) or "none"
        raise InvalidInput(
            f"blocks to factorize: {given}; a {type(model).__name__} of this size has blocks 0 to {len(widths) - 1}; "
            "name at least one of these"
        )
    return {i: widths[i] for i in chosen}


def _divisors(widths: dict[int, dict[str, int]]) -> list[int]:
    common = math.gcd(*(width for block in widths.values() for width in block.values()))
    return [k for k in range(1, common + 1) if common % k == 0]


def _family(model: nn.Module) -> Family:
    for kind, family in FAMILIES.items():
        if isinstance(model, kind):
            return family
    raise InvalidInput(
        f"a {type(model).__name__} can't be factorized; the families that can: "
        f"{', '.join(kind.__name__ for kind in FAMILIES)}"
    )
