"""From a PIL image to the tensor a model reads, in training and at test."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torchvision.transforms import v2

if TYPE_CHECKING:
    from dfml.recipe import Recipe


class Normalisation(NamedTuple):
    """Per channel, on values 0 … 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def training_transform(recipe: Recipe, normalisation: Normalisation) -> v2.Compose:
    """Random resized crop, flip; draws from torch's global generator."""
    size = recipe.image_size
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(recipe.crop_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5 if recipe.horizontal_flip else 0.0),
            to_tensor(normalisation),
        ]
    )


def evaluation_transform(recipe: Recipe, normalisation: Normalisation) -> v2.Compose:
    """Resize the shorter side, centre crop."""
    return v2.Compose([evaluation_crop(recipe), to_tensor(normalisation)])


def evaluation_sizes(recipe: Recipe) -> tuple[int, int]:
    """Pixels: of the shorter side after resizing, and of the square that is cut out of the middle."""
    size = recipe.test_size or recipe.image_size
    return round(size / recipe.test_crop), size


def evaluation_crop(recipe: Recipe) -> v2.Compose:
    """The part of `evaluation_transform` that gives a PIL image again."""
    resize, crop = evaluation_sizes(recipe)
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(crop)])


def to_tensor(normalisation: Normalisation) -> v2.Compose:
    """A PIL image (or the bytes of several as a tensor (B, 3, H, W)) to normalised float32."""
    return v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(normalisation.mean, normalisation.std)]
    )
