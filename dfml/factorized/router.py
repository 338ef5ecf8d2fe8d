"""The router: which sub-block a token, or an image, goes through (DFML §3.2; the published code's `gate`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Router(nn.Module):
    """A linear map without bias and a straight-through argmax over K sub-blocks.

    p = softmax(G z), r = onehot(argmax p); backward, r counts as p, so the choice itself can be learnt.

    Args:
        width: channels C of what is routed.
        routers: number of sub-blocks K.
    """

    def __init__(self, width: int, routers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(routers, width))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # what torch.nn.Linear, and so the published code, starts from

    def forward(self, z: Tensor) -> Tensor:
        """z (..., C) to one-hot rows r (..., K) that carry the gradient of the softmax."""
        p = F.linear(z, self.weight).softmax(dim=-1)
        r = F.one_hot(p.argmax(dim=-1), p.shape[-1]).to(p.dtype)
        return r + (p - p.detach())  # in this order exactly r
