"""What a trained model is compared with: the frozen pretrained backbone, and raw pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dfml.embedding_model import build_model
from dfml.evaluate import Embedder
from dfml.recipe import Recipe

PIXELS = 32  # side to which raw pixels are averaged: finer, they match edges that two artists never draw alike


def raw_pixels(images: Tensor) -> Tensor:
    """Colours at 32 × 32 less the image's mean, L2-normalised: images (B, 3, H, W) to (B, 3072)."""
    pixels = F.interpolate(images, size=(PIXELS, PIXELS), mode="area").flatten(1)
    return F.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=-1)


def baselines(recipe: Recipe) -> dict[str, Embedder]:
    """Embedders that learnt nothing from the data set, on the recipe's own images (same size, same crop)."""
    pretrained = build_model(recipe.model_copy(update={"embedding_size": None})).eval()
    return {"frozen pretrained backbone": pretrained, "raw pixels": raw_pixels}
