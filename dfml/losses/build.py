"""Building the loss of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from dfml.losses.constants import CONSTANTS
from dfml.losses.cross_entropy import CrossEntropy
from dfml.losses.proxy_anchor import ProxyAnchor

if TYPE_CHECKING:
    from dfml.recipe import Recipe


def build_loss(recipe: Recipe, classes: int, width: int) -> nn.Module:
    """Build the loss of a recipe for a number of training classes and an embedding width.

    It takes L2-normalized embeddings (B, D), or logits (B, C) for cross-entropy, and labels (B,)
    int64. It returns a scalar that is connected to the graph of the embeddings even if it is 0.
    """
    if recipe.loss == "cross_entropy":
        return CrossEntropy(recipe.label_smoothing)
    constants = CONSTANTS[recipe.loss]
    margin = constants.margin if recipe.margin is None else recipe.margin
    if recipe.loss == "proxy_anchor":
        alpha = constants.alpha if recipe.alpha is None else recipe.alpha
        assert alpha is not None
        assert margin is not None
        return ProxyAnchor(classes, width, alpha=alpha, margin=margin)
    # Imported only if needed: it imports SciPy's statistics, which takes half a second.
    from dfml.losses.library import LIBRARY, LibraryLoss

    return LibraryLoss(*LIBRARY[recipe.loss](classes, width, margin or 0.0), seed=recipe.seed)
