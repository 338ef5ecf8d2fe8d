"""The recipe: all values that determine what a training run computes.

The defaults are those of Wang et al., CVPR 2023, for CUB (see docs/method.md).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from dfml.errors import InvalidInput
from dfml.losses import CONSTANTS, LossName
from dfml.schedule import Schedule, StepDecay
from dfml.strict_model import StrictModel
from dfml.task import TaskName

PrecisionName = Literal["float32", "bfloat16", "auto"]


class Recipe(StrictModel):
    """A training recipe; illegal values and combinations are refused (see `recipe_from`)."""

    model_config = ConfigDict(allow_inf_nan=False)

    # Model
    backbone: str = "deit_small_distilled_patch16_224"  # a timm name of a family that factorizes
    weights: str = "pretrained"  # "pretrained", "random", or a .pth or .safetensors file
    num_sub_blocks: int = Field(default=3, ge=1)  # sub-blocks per block, K
    blocks: str = "all"  # blocks to factorize: "all", or their numbers from 0, such as "6-11" or "0,2,4-7"
    router_temperature: float = Field(default=1.0, gt=0)  # of the routers' softmax; 1 as published
    embedding_size: int | None = Field(default=None, ge=2)  # None: the backbone's width, no linear head
    inference: Literal["full", "routed"] = "full"  # path used after training; full as published

    # Images
    image_size: int = Field(default=224, ge=32)  # pixels, in training
    test_size: int | None = Field(default=None, ge=32)  # pixels, at test; None: as in training (required for ViTs)
    test_crop: float = Field(default=0.875, gt=0, le=1)  # side of the center crop over that of the image: 224 / 256
    crop_scale: float = Field(default=0.08, gt=0, le=1)  # smallest random crop, as a share of the image's area
    horizontal_flip: bool = True  # mirror half of the training images

    # Objective
    loss: LossName = "proxy_anchor"
    alpha: float | None = Field(default=None, gt=0)  # None: the published value (dfml/losses/constants.py)
    margin: float | None = Field(default=None, ge=0)  # the publication's `mrg`; None: the published value
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # for cross_entropy only
    routed_weight: float = Field(
        default=0.5, ge=0
    )  # as published, of the routed path's loss and both reconstruction terms
    embedding_reconstruction: float = Field(default=0.1, ge=0)  # weight of ‖e_routed − e_full‖; as published
    stream_reconstruction: float = Field(default=1e-5, ge=0)  # weight of the streams' ‖x̂ − x‖; as published

    # Weight of the term that balances the sub-blocks' load; 0 as published. It competes with the
    # loss: with a loss of 15 (Proxy-Anchor on the emoji), 0.01 changed nothing, and 10 kept every
    # router from collapsing.
    balance_weight: float = Field(default=0.0, ge=0)
    sparse_training: bool = False  # cheaper steps; routers learn only from chosen sub-blocks (not as published)

    # Batches
    batch_size: int = Field(default=120, ge=2)  # images over all workers
    images_per_class: int | None = Field(default=None, ge=1)  # images of each class in a batch; None: plain shuffle

    # Optimization
    epochs: int = Field(default=60, ge=1)
    warm_epochs: int = Field(default=5, ge=0)  # first epochs; only proxies and routers train
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    lr: float = Field(default=1e-4, gt=0)  # of backbone and routers, before the schedule
    proxy_lr_multiplier: float = Field(default=100.0, gt=0)  # rate of the loss's proxies over lr; as published
    weight_decay: float = Field(default=1e-4, ge=0)  # of all parameters, as published
    schedule: Schedule = StepDecay(step=5, gamma=0.5)  # factor of lr in each epoch; CUB's in the publication
    clip_value: float = Field(default=10.0, gt=0)  # largest absolute value of a gradient; as published
    seed: int = Field(default=0, ge=0)

    # Speed and memory: apart from rounding, these values don't change what is computed.
    precision: PrecisionName = "float32"  # of the model (see dfml/precision.py); auto: bfloat16 on GPUs that have it
    # Parts of a batch, with one at a time in memory; the loss is still that of the whole batch.
    gradient_accumulation: int = Field(default=1, ge=1)
    activation_checkpointing: bool = False  # recompute a block's activations in the backward pass
    compile: bool = False  # use torch.compile for the full path's blocks

    @field_validator("blocks")
    @classmethod
    def _ranges(cls, blocks: str) -> str:
        if blocks != "all" and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", blocks):
            raise ValueError('give "all", or the blocks\' numbers counted from 0, such as "6-11" or "0,2,4-7"')
        return blocks

    @property
    def task(self) -> TaskName:
        """Return the task that the loss trains for."""
        return "classification" if self.loss == "cross_entropy" else "retrieval"

    def block_numbers(self) -> list[int] | None:
        """Return the numbers of the blocks to factorize; None: all blocks."""
        if self.blocks == "all":
            return None
        ranges = [[int(end) for end in part.split("-")] for part in self.blocks.split(",")]
        return [number for ends in ranges for number in range(ends[0], ends[-1] + 1)]

    @model_validator(mode="after")
    def _loss_fits(self) -> Recipe:
        constants = CONSTANTS[self.loss]
        for name in ("alpha", "margin"):
            if getattr(self, name) is not None and getattr(constants, name) is None:
                having = [loss for loss, has in CONSTANTS.items() if getattr(has, name) is not None]
                raise ValueError(f"the loss {self.loss} has no {name} ({', '.join(having)} have one); drop it")
        if self.task == "classification" and self.embedding_size is not None:
            raise ValueError("cross_entropy trains a classifier on the backbone's own features; drop embedding_size")
        if self.task == "retrieval" and self.label_smoothing:
            raise ValueError(f"label_smoothing belongs to cross_entropy, not to {self.loss}; drop it")
        if constants.pairs and (self.images_per_class or 1) < 2:
            raise ValueError(
                f"the loss {self.loss} compares images of a class within a batch; "
                "set images_per_class to 2 or more (4 is usual)"
            )
        return self

    @model_validator(mode="after")
    def _combinations(self) -> Recipe:
        if self.inference == "routed" and self.routed_weight == 0:
            raise ValueError(
                "inference through the routed path needs routers that train; "
                "set routed_weight larger than 0, or inference to full"
            )
        if self.images_per_class is not None and self.batch_size % self.images_per_class:
            raise ValueError(
                f"images_per_class {self.images_per_class} doesn't divide batch_size {self.batch_size}; "
                "set batch_size to a multiple of images_per_class"
            )
        if self.warm_epochs >= self.epochs:
            raise ValueError(
                f"warm_epochs {self.warm_epochs} leaves none of {self.epochs} epochs to train the backbone; "
                "lower warm_epochs"
            )
        return self


def recipe_from(values: dict[str, Any]) -> Recipe:
    """Build a recipe from plain values (YAML, JSON, a trial's configuration).

    Raises:
        InvalidInput: a value can't be used; the message is one sentence on the first such value.
    """
    unknown = sorted(set(values) - set(Recipe.model_fields))
    if unknown:
        raise InvalidInput(
            f"a recipe has no {unknown[0]!r}; it has {', '.join(Recipe.model_fields)}; name one of these"
        )
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        given = f"{name} = {first['input']!r}: " if name else ""
        raise InvalidInput(f"this recipe can't be used: {given}{reason}") from error
