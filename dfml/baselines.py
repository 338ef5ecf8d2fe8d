"""Baselines for a trained model: the frozen pretrained backbone, and raw pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dfml.embedding_model import build_model
from dfml.evaluate import Embedder
from dfml.recipe import Recipe

# Side to which raw pixels are averaged; finer pixels match edges that no two artists draw alike.
PIXELS = 32


def raw_pixels(images: Tensor) -> Tensor:
    """Return colors at 32 × 32 less the image's mean, L2-normalized: (B, 3, H, W) to (B, 3072)."""
    pixels = F.interpolate(images, size=(PIXELS, PIXELS), mode="area").flatten(1)
    return F.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=-1)


def baselines(recipe: Recipe) -> dict[str, Embedder]:
    """Return embedders that learned nothing from the data set, for images of the recipe's size."""
    pretrained = build_model(recipe.model_copy(update={"embedding_size": None})).eval()
    return {"frozen pretrained backbone": pretrained, "raw pixels": raw_pixels}
