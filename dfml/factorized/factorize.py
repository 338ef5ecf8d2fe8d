"""`factorize`: from a pretrained timm model to its exact factorization."""

from __future__ import annotations

import copy
import math
from typing import Protocol

from timm.layers import DropPath
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dfml.errors import InvalidInput
from dfml.factorized.backbone import FactorizedBackbone
from dfml.factorized.efficientnet import FactorizedEfficientNet
from dfml.factorized.vit import FactorizedViT


class Family(Protocol):
    """What `factorize` asks of a backbone family; both calls may raise `InvalidInput`."""

    def __call__(self, model: nn.Module, routers: int) -> FactorizedBackbone: ...

    def widths(self, model: nn.Module) -> dict[str, int]: ...


FAMILIES: dict[type[nn.Module], Family] = {VisionTransformer: FactorizedViT, EfficientNet: FactorizedEfficientNet}


def allowed_routers(model: nn.Module) -> list[int]:
    """The router counts K that divide every block of a timm model, ascending."""
    widths = _family(model).widths(model)
    common = math.gcd(*widths.values())
    return [k for k in range(1, common + 1) if common % k == 0]


def factorize(model: nn.Module, routers: int) -> FactorizedBackbone:
    """Cut each block of `model` into `routers` sub-blocks, whose sum is the old block.

    Args:
        model: a timm model of one of `FAMILIES`, pretrained or not; it isn't changed.
        routers: the number of sub-blocks K.

    Returns:
        A backbone whose full path is `model` up to pooled features, to float rounding. Routers start at random.

    Raises:
        InvalidInput: the model is of no known family, has dropout or stochastic depth, or K doesn't divide a block.
    """
    family = _family(model)
    for module in model.modules():
        rate = module.p if isinstance(module, nn.Dropout) else module.drop_prob if isinstance(module, DropPath) else 0.0
        rate = rate or getattr(module, "drop_rate", 0.0)  # what timm's convolutional models drop before the classifier
        if rate:
            raise InvalidInput(
                f"{type(module).__name__} of this model drops at rate {rate}, which the two paths would not share: create it with drop rates of 0"
            )
    allowed = allowed_routers(model)
    if routers not in allowed:
        failing = [name for name, width in family.widths(model).items() if routers < 1 or width % routers]
        raise InvalidInput(
            f"router count {routers} doesn't divide {' and '.join(failing[:2])} of this backbone; "
            f"those that do: {', '.join(map(str, allowed))}"
        )
    return family(copy.deepcopy(model), routers)


def _family(model: nn.Module) -> Family:
    for kind, family in FAMILIES.items():
        if isinstance(model, kind):
            return family
    raise InvalidInput(
        f"a {type(model).__name__} can't be factorized; the families that can: {', '.join(kind.__name__ for kind in FAMILIES)}"
    )
