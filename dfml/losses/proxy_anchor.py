"""Proxy-Anchor loss (Kim et al., CVPR 2020, equation 4). B images, C classes, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ProxyAnchor(nn.Module):
    """Pull each class's proxy to its images and push it from all others, hard images most.

        1/|P+| Σ_{p∈P+} log(1 + Σ_{x∈X+_p} e^{-α(s(x,p) - δ)})
        + 1/|P| Σ_p log(1 + Σ_{x∈X-_p} e^{α(s(x,p) + δ)})

    with P+ the proxies of the classes in the batch and s the cosine.

    Args:
        classes: the number C of training classes, with one proxy each.
        width: the embedding width D.
        alpha: the scale α.
        margin: the margin δ, the publication's `mrg`.
    """

    def __init__(self, classes: int, width: int, alpha: float = 32.0, margin: float = 0.1) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.empty(classes, width))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")
        self.alpha = alpha
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of L2-normalized embeddings (B, D) for labels (B,), int64 in 0 … C-1.

        It is computed in float32 even under autocast.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return self._loss(embeddings.to(self.proxies.dtype), labels)

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        similarity = embeddings @ F.normalize(self.proxies, dim=-1).T  # (B, C)
        positive = F.one_hot(labels, similarity.shape[1]).bool()
        pull = _log_one_plus_sum_exp(-self.alpha * (similarity - self.margin), positive)  # (C,)
        push = _log_one_plus_sum_exp(self.alpha * (similarity + self.margin), ~positive)
        present = positive.any(dim=0).sum()
        return pull.sum() / present + push.mean()


def _log_one_plus_sum_exp(exponents: Tensor, mask: Tensor) -> Tensor:
    """Return log(1 + Σ e^x over the rows in `mask`) per column, without overflow.

    The gradient of an empty column is 0.
    """
    one = exponents.new_zeros(1, exponents.shape[1])
    return torch.cat([one, exponents.masked_fill(~mask, -torch.inf)]).logsumexp(dim=0)
