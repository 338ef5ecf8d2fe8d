"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

TOP = (1, 5)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the rows with their label among the k largest logits, for k = 1 and 5: (2,) float64.

    A label ranks behind all equal logits: a model with constant logits scores 0.

    Args:
        logits: the logits (B, C).
        labels: the labels (B,), int64 in 0 … C-1.
    """
    own = logits.gather(1, labels[:, None])
    rank = (logits >= own).sum(dim=1)  # 1 if no other logit is as large
    return torch.stack([(rank <= k).sum().double() for k in TOP])
