"""Transforms of PIL images to pixels, and normalization of pixels to the input of a model."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

if TYPE_CHECKING:
    from dfml.recipe import Recipe


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, for values 0 … 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def training_transform(recipe: Recipe) -> v2.Compose:
    """Return the training transform to uint8 (3, H, W): random resized crop and flip.

    It uses torch's generator.
    """
    size = recipe.image_size
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(recipe.crop_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5 if recipe.horizontal_flip else 0.0),
            v2.PILToTensor(),
        ]
    )


def evaluation_transform(recipe: Recipe) -> v2.Compose:
    """Return the evaluation transform to uint8 (3, H, W): resize, then center crop."""
    return v2.Compose([evaluation_crop(recipe), v2.PILToTensor()])


def evaluation_sizes(recipe: Recipe) -> tuple[int, int]:
    """Return the shorter side after resizing and the side of the center crop, in pixels."""
    size = recipe.test_size or recipe.image_size
    return round(size / recipe.test_crop), size


def evaluation_crop(recipe: Recipe) -> v2.Compose:
    """Return the part of `evaluation_transform` whose output is a PIL image."""
    resize, crop = evaluation_sizes(recipe)
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(crop)])


def normalized(pixels: Tensor, normalization: Normalization, device: torch.device) -> Tensor:
    """Return uint8 pixels (B, 3, H, W) as a model's input: float32, on its device.

    Bytes are copied, a quarter of what floats would be; from pinned memory without a wait.
    """
    mean, std = _statistics(normalization, device)
    values = pixels.to(device, non_blocking=True).contiguous().to(torch.float32)
    # The operations of torchvision's ToDtype and Normalize.
    return values.mul_(1 / 255).sub_(mean).div_(std)


@cache
def _statistics(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (3, 1, 1) on a device; copying them waits for a GPU."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1) for values in normalization)
    return mean, std
