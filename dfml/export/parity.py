"""Does an exported file compute what the model does? It is run and compared on inputs and batch sizes it wasn't traced with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.export.formats import Run

TOLERANCE = (
    1e-4  # of numbers of length 1 in all, or of probabilities; float32 in another order of sums differs by some 1e-6
)
BATCHES = (1, 3)  # other than the one traced


@torch.inference_mode()
def largest_difference(model: Run, exported: Run, size: int) -> float:
    """The largest absolute difference of any output.

    Args:
        size: of the images, pixels.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in BATCHES:
        noise = torch.randn(batch, 3, size, size, generator=generator)
        for images in (noise, picture_like(batch, size, generator)):
            differences.append((model(images) - exported(images)).abs().max())
    return float(torch.stack(differences).max())  # NaN where one of them is


def picture_like(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Images as smooth, and as far from 0, as normalised photographs are: fields of colour, coarse and fine, (B, 3, H, W)."""
    images = torch.zeros(batch, 3, size, size)
    for cells in (2, 5, 16):
        coarse = torch.randn(batch, 3, cells, cells, generator=generator) * 2 / cells**0.5
        images += F.interpolate(coarse, (size, size), mode="bicubic")
    return images.clamp(-2.1, 2.6)  # black and white, normalised by ImageNet's mean and standard deviation
