"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

TOP = (1, 5)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many rows have their label among the k largest logits, for k = 1 and 5: (2,) float64.

    A label counts as behind all others with an equal logit: a model that says nothing scores nothing.

    Args:
        logits: (B, C).
        labels: (B,) int64 in 0 … C-1.
    """
    own = logits.gather(1, labels[:, None])
    place = (logits >= own).sum(dim=1)  # 1 for a label that is alone in front
    return torch.stack([(place <= k).sum().double() for k in TOP])
