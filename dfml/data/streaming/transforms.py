"""Transforms of a PIL image to the model's input tensor, in training and at test."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torchvision.transforms import v2

if TYPE_CHECKING:
    from dfml.recipe import Recipe


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, for values 0 … 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def training_transform(recipe: Recipe, normalization: Normalization) -> v2.Compose:
    """Return the training transform (random resized crop and flip); it uses torch's generator."""
    size = recipe.image_size
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(recipe.crop_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5 if recipe.horizontal_flip else 0.0),
            to_tensor(normalization),
        ]
    )


def evaluation_transform(recipe: Recipe, normalization: Normalization) -> v2.Compose:
    """Return the evaluation transform: resize of the shorter side, then center crop."""
    return v2.Compose([evaluation_crop(recipe), to_tensor(normalization)])


def evaluation_sizes(recipe: Recipe) -> tuple[int, int]:
    """Return the shorter side after resizing and the side of the center crop, in pixels."""
    size = recipe.test_size or recipe.image_size
    return round(size / recipe.test_crop), size


def evaluation_crop(recipe: Recipe) -> v2.Compose:
    """Return the part of `evaluation_transform` whose output is a PIL image."""
    resize, crop = evaluation_sizes(recipe)
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(crop)])


def to_tensor(normalization: Normalization) -> v2.Compose:
    """Return the conversion of a PIL image or uint8 tensor (B, 3, H, W) to normalized float32."""
    return v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(normalization.mean, normalization.std)]
    )
