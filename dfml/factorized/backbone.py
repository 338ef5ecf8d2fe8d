"""The interface of a factorized backbone: one forward for the full path, the routed path, or both in one batched pass."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dfml.factorized.router import Router

Path = Literal["full", "routed", "both"]


class BothPaths(NamedTuple):
    """What one pass over both paths gives for B images."""

    full: Tensor  # (B, D) pooled features of the full path
    routed: Tensor  # (B, D) of the routed path
    distance: Tensor  # scalar: 1/L Σ_blocks Σ_tokens ‖x̂ − sg x‖₂, summed over the B images


class FactorizedBlock(nn.Module):
    """A block that is a sum of sub-blocks.

    With path "both" the batch holds 2B streams, the first B on the full path. The block then also returns its share of the
    distance between them; otherwise that is zero.
    """

    def forward(self, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    @staticmethod
    def choose(router: Router, z: Tensor, path: Path) -> Tensor | None:
        """The weight r of each sub-block: all one on the full path (None for short), the router's choice on the routed."""
        if path == "full":
            return None
        if path == "routed":
            return router(z)
        routed = z.chunk(2)[1]
        r = router(routed)
        return torch.cat([torch.ones_like(r), r])


class FactorizedBackbone(nn.Module):
    """A pretrained backbone whose blocks are factorized.

    A family subclasses this and fills `stem` (all before the first factorized block), `blocks` and `head` (all after, up
    to pooled features). Both paths share the stem and every weight.

    Attributes:
        routers: number of sub-blocks K of every block.
        num_features: width D of the pooled features.
        blocks: the factorized blocks, in order.
    """

    routers: int
    num_features: int
    blocks: nn.ModuleList

    def stem(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor, path: Path = "full") -> Tensor | BothPaths:
        """images (B, 3, H, W) to pooled features (B, D), or to `BothPaths` for path "both"."""
        x = self.stem(images)
        if path == "both":
            x = torch.cat([x, x])
        distances = []
        for block in self.blocks:
            x, distance = block(x, path)
            distances.append(distance)
        features = self.head(x)
        if path != "both":
            return features
        full, routed = features.chunk(2)
        return BothPaths(full, routed, torch.stack(distances).mean())

    def train(self, mode: bool = True) -> FactorizedBackbone:
        """As `nn.Module.train`, but batch norms keep their running statistics.

        In one pass over both paths batch statistics would mix the two, and over several ranks they would differ by rank; with
        the pretrained statistics the full path stays the dense model. Their scale and shift are trained.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self
