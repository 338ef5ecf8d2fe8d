"""Comparison of an exported file with its model, on other inputs and batch sizes than traced."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.export.formats import Run

# Largest difference of embeddings (length 1) or probabilities; float32 sums in another order differ
# by about 1e-6.
TOLERANCE = 1e-4
# Batch sizes other than the traced one.
BATCHES = (1, 3)


@torch.inference_mode()
def largest_difference(model: Run, exported: Run, size: int) -> float:
    """Return the largest absolute difference of any output.

    Args:
        model: the model.
        exported: the exported model.
        size: the side of the images in pixels.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in BATCHES:
        noise = torch.randn(batch, 3, size, size, generator=generator)
        for images in (noise, picture_like(batch, size, generator)):
            differences.append((model(images) - exported(images)).abs().max())
    return float(torch.stack(differences).max())  # NaN if any difference is


def picture_like(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Return smooth random images (B, 3, H, W) with the value range of normalized photographs."""
    images = torch.zeros(batch, 3, size, size)
    for cells in (2, 5, 16):
        coarse = torch.randn(batch, 3, cells, cells, generator=generator) * 2 / cells**0.5
        images += F.interpolate(coarse, (size, size), mode="bicubic")
    # Black and white, normalized by ImageNet's mean and standard deviation.
    return images.clamp(-2.1, 2.6)
