"""The interface of a factorized backbone: one forward for the full path, the routed path, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfml.factorized.router import Router, Routing

Path = Literal["full", "routed", "both"]
T = TypeVar("T")


def at_least_float32(x: Tensor) -> Tensor:
    """x out of half precision: losses are computed in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RoutingSums(NamedTuple):
    """Sums over tokens for each router (rows), in the order of the network."""

    tokens: Tensor  # (routers, K) how many went through each sub-block
    probability: Tensor  # (routers, K) of p, with gradient
    entropy: Tensor  # (routers,) of −Σ_k p_k ln p_k, in nats

    @staticmethod
    def of(*routings: Routing) -> RoutingSums:
        return RoutingSums(
            torch.stack([r.p.new_tensor(r.sizes) for r in routings]),
            torch.stack([r.p.sum(dim=0) for r in routings]),
            torch.stack([torch.special.entr(r.p.detach()).sum() for r in routings]),
        )


class BothPaths(NamedTuple):
    """What one pass over both paths gives for B images."""

    full: Tensor  # (B, D) pooled features of the full path
    routed: Tensor  # (B, D) of the routed path
    distance: Tensor  # scalar: 1/L Σ_blocks Σ_tokens ‖x̂ − sg x‖₂, summed over the B images
    routing: RoutingSums

    @staticmethod
    def of(parts: list[BothPaths]) -> BothPaths:
        """The parts of a batch put together, no longer in half precision."""
        return BothPaths(
            at_least_float32(torch.cat([part.full for part in parts])),
            at_least_float32(torch.cat([part.routed for part in parts])),
            torch.stack([part.distance for part in parts]).sum(),
            RoutingSums(
                *(torch.stack(sums).sum(dim=0) for sums in zip(*(part.routing for part in parts), strict=True))
            ),
        )


class BlockOutput(NamedTuple):
    full: Tensor
    routed: Tensor
    distance: Tensor  # the block's share, scalar
    tokens: Tensor  # this and the next two: see RoutingSums
    probability: Tensor
    entropy: Tensor


class FactorizedBlock(nn.Module):
    """A block that is a sum of sub-blocks. x is a stream: (B, N, C) or (B, C, H, W)."""

    def full(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def compile_full(self) -> None:
        """Use torch.compile for `full`, here and within `both`."""
        self.full = torch.compile(self.full)  # type: ignore[method-assign]

    def routed(self, x: Tensor) -> Tensor:
        """Each token, or image, through its own sub-block only."""
        raise NotImplementedError

    def both(self, full: Tensor, routed: Tensor, sparse: bool) -> BlockOutput:
        """Both streams, for training; `sparse` drops the gradient that reaches a router from sub-blocks not chosen."""
        raise NotImplementedError


class FactorizedBackbone(nn.Module):
    """A pretrained backbone whose blocks, or some of them, are factorized.

    A family subclasses this and fills `stem` (all before the first block), `blocks` and `head` (all after, up to pooled
    features). Both paths share the stem and every weight.

    Attributes:
        routers: number of sub-blocks K of every factorized block.
        num_features: width D of the pooled features.
        blocks: all blocks in order; those that aren't a `FactorizedBlock` are as timm made them, and dense on both paths.
        sparse: in training, drop the gradient that reaches the routers from sub-blocks not chosen: cheaper, not exact.
        checkpointing: in training, keep no activations within a block but compute them again: slower, less memory.
    """

    routers: int
    num_features: int
    blocks: nn.ModuleList
    sparse: bool = False
    checkpointing: bool = False

    def stem(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor, path: Path = "full") -> Tensor | BothPaths:
        """images (B, 3, H, W) to pooled features (B, D), or to `BothPaths` for path "both"."""
        x = self.stem(images)
        if path == "both":
            return self._both(x)
        for block in self.blocks:
            if isinstance(block, FactorizedBlock):
                x = block.full(x) if path == "full" else block.routed(x)
            else:
                x = block(x)
        return self.head(x)

    def _both(self, full: Tensor) -> BothPaths:
        routed, outputs = full, []
        for block in self.blocks:
            if isinstance(block, FactorizedBlock):
                output = self._run(block.both, full, routed, self.sparse)
                full, routed = output[:2]
                outputs.append(BlockOutput(*output))
            elif not outputs:  # the paths haven't parted yet
                full = routed = self._run(block, full)
            else:
                full, routed = self._run(block, full), self._run(block, routed)
        return BothPaths(
            self.head(full),
            self.head(routed),
            torch.stack([output.distance for output in outputs]).mean(),
            RoutingSums(*(torch.cat(sums) for sums in zip(*(output[3:] for output in outputs), strict=True))),
        )

    def all_routers(self) -> list[Router]:
        """The routers in the order of the network."""
        return [module for module in self.blocks.modules() if isinstance(module, Router)]

    def router_names(self) -> list[str]:
        """Where each of `all_routers` is, the block's number first: "3.attn_router", "3.mlp_router", or "3.router"."""
        return [name for name, module in self.blocks.named_modules() if isinstance(module, Router)]

    def compile_full_path(self) -> None:
        """Use torch.compile for the blocks' full path. The routed path's shapes depend on the data: it stays as it is."""
        for block in self.blocks:
            if isinstance(block, FactorizedBlock):
                block.compile_full()

    def _run(self, function: Callable[..., T], *arguments: object) -> T:
        if self.checkpointing and torch.is_grad_enabled():
            # Nothing in a block draws random numbers, so there is no generator's state to keep.
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return function(*arguments)

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
