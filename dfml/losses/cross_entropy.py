"""Cross-entropy for classification, the publication's L_m on ImageNet-1K."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossEntropy(nn.Module):
    """The mean of −log softmax(logits)_label over the batch, in float32 even under autocast.

    Args:
        smoothing: the share of a label that is spread over all classes.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits (B, C) for labels (B,), int64 in 0 … C-1."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
