"""Metric losses on L2-normalised embeddings and labels 0 … C-1, by the name a recipe gives. One loss a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from dfml.losses.proxy_anchor import ProxyAnchor

if TYPE_CHECKING:
    from dfml.recipe import Recipe


def build_loss(recipe: Recipe, classes: int, width: int) -> nn.Module:
    """The loss of a recipe for a number of training classes and an embedding width."""
    builders = {"proxy_anchor": lambda: ProxyAnchor(classes, width, alpha=recipe.alpha, margin=recipe.margin)}
    return builders[recipe.loss]()


__all__ = ["ProxyAnchor", "build_loss"]
