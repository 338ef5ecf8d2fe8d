"""The interface of a factorized backbone: one forward for the full or the routed path, or both."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfml.factorized.grouped import is_grouped_faster
from dfml.factorized.masked import MaskedOutput
from dfml.factorized.router import Router, Routing

ForwardPath = Literal["full", "routed", "both"]
Design = Literal["gathered", "masked"]
T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., object])


def at_least_float32(x: Tensor) -> Tensor:
    """Cast x from half precision to float32, in which losses are computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RoutingSums(NamedTuple):
    """Sums over tokens, one row per router, in the order of the network."""

    tokens: Tensor  # (routers, K) number of tokens through each sub-block
    probability: Tensor  # (routers, K) sum of p, with gradient
    entropy: Tensor  # (routers,) sum of −Σ_k p_k ln p_k, in nats

    @staticmethod
    def of(*routings: Routing) -> RoutingSums:
        return RoutingSums.over(torch.stack([r.p for r in routings]), torch.stack([r.onehot for r in routings]))

    @staticmethod
    def over(p: Tensor, onehot: Tensor) -> RoutingSums:
        """Sum p and the choices, both (routers, M, K), over the M tokens."""
        return RoutingSums(onehot.sum(dim=1), p.sum(dim=1), torch.special.entr(p.detach()).sum(dim=(1, 2)))


class BothPaths(NamedTuple):
    """The result of one pass over both paths for B images."""

    full: Tensor  # (B, D) pooled features of the full path
    routed: Tensor  # (B, D) pooled features of the routed path
    distance: Tensor  # scalar: 1/L Σ_blocks Σ_tokens ‖x̂ − sg x‖₂, summed over the B images
    routing: RoutingSums

    @staticmethod
    def of(parts: list[BothPaths]) -> BothPaths:
        """Concatenate the parts of a batch, cast from half precision."""
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
    distance: Tensor  # scalar: the block's share
    tokens: Tensor  # for this and the next two, see RoutingSums
    probability: Tensor
    entropy: Tensor


class FactorizedBlock(nn.Module):
    """A block that is a sum of sub-blocks. Its input x is a stream: (B, N, C) or (B, C, H, W)."""

    def full(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def compile_methods(self) -> None:
        """Use torch.compile for `full`, here and within `both`, and for `masked`.

        Not for the gathered routed path, whose shapes depend on the data.
        """
        self.full = compiled(self.full)  # type: ignore[method-assign]
        self.masked = compiled(self.masked)  # type: ignore[method-assign]

    def routed(self, x: Tensor) -> Tensor:
        """Send each token, or image, through its chosen sub-block only."""
        raise NotImplementedError

    def routed_static(self, x: Tensor) -> Tensor:
        """Compute `routed` with shapes that don't depend on the data, for inference on GPUs."""
        raise NotImplementedError

    def both(self, full: Tensor, routed: Tensor, sparse: bool) -> BlockOutput:
        """Run both streams, for training, in the gathered design (`sub_blocks.py`).

        If `sparse`, routers learn from chosen sub-blocks only.
        """
        raise NotImplementedError

    def masked(self, streams: Tensor, sparse: bool) -> MaskedOutput:
        """Run both streams as one batch (2B, …), in the masked design (`masked.py`)."""
        raise NotImplementedError


class FactorizedBackbone(nn.Module):
    """A pretrained backbone with some or all of its blocks factorized.

    A family fills `stem` (everything before the first block), `blocks`, and `head` (everything
    after them, up to pooled features). Both paths share the stem and every weight.

    Attributes:
        num_sub_blocks: the number K of sub-blocks of every factorized block.
        num_features: the width D of the pooled features.
        blocks: all blocks in order; a block that isn't a `FactorizedBlock` is timm's own, and dense
            on both paths.
        sparse: whether training drops the gradient that reaches the routers from sub-blocks not
            chosen; cheaper, but not exact.
        checkpointing: whether training recomputes activations within blocks, to save memory.
        design: the implementation of path "both"; None: `masked` on a GPU in less than strict
            float32, else `gathered`. Loss and gradients are the same to rounding.
        static: whether path "routed" uses `routed_static`; None: on a GPU in bfloat16.
    """

    num_sub_blocks: int
    num_features: int
    blocks: nn.ModuleList
    sparse: bool = False
    checkpointing: bool = False
    design: Design | None = None
    static: bool | None = None

    def stem(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor, path: ForwardPath = "full") -> Tensor | BothPaths:
        """Map images (B, 3, H, W) to pooled features (B, D), or to `BothPaths` for path "both"."""
        x = self.stem(images)
        if path == "both":
            return self._masked(x) if (self.design or _best_design(x)) == "masked" else self._both(x)
        static = is_grouped_faster(x) if self.static is None else self.static
        for block in self.blocks:
            if isinstance(block, FactorizedBlock):
                x = block.full(x) if path == "full" else block.routed_static(x) if static else block.routed(x)
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
            elif not outputs:  # both streams are still the same
                full = routed = self._run(block, full)
            else:
                full, routed = self._run(block, full), self._run(block, routed)
        return BothPaths(
            self.head(full),
            self.head(routed),
            torch.stack([output.distance for output in outputs]).mean(),
            RoutingSums(*(torch.cat(sums) for sums in zip(*(output[3:] for output in outputs), strict=True))),
        )

    def _masked(self, x: Tensor) -> BothPaths:
        streams, outputs = torch.cat([x, x]), []
        for block in self.blocks:
            if isinstance(block, FactorizedBlock):
                output = MaskedOutput(*self._run(block.masked, streams, self.sparse))
                streams = output.streams
                outputs.append(output)
            else:
                streams = self._run(block, streams)
        full, routed = self.head(streams).chunk(2)
        return BothPaths(
            full,
            routed,
            torch.stack([output.distance for output in outputs]).mean(),
            RoutingSums.over(
                torch.stack([p for output in outputs for p in output.p]),
                torch.stack([onehot for output in outputs for onehot in output.onehot]),
            ),
        )

    def routers(self) -> list[Router]:
        """Return the routers in the order of the network."""
        return [module for module in self.blocks.modules() if isinstance(module, Router)]

    def router_names(self) -> list[str]:
        """Return the names of `routers`, such as "3.attn_router" or "3.router" for block 3."""
        return [name for name, module in self.blocks.named_modules() if isinstance(module, Router)]

    def compile_blocks(self) -> None:
        """Use torch.compile for the factorized blocks, where shapes don't depend on the data."""
        for block in self.blocks:
            if isinstance(block, FactorizedBlock):
                block.compile_methods()

    def _run(self, function: Callable[..., T], *arguments: object) -> T:
        if self.checkpointing and torch.is_grad_enabled():
            # Nothing in a block draws random numbers, so no generator's state needs to be kept.
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return function(*arguments)

    def train(self, mode: bool = True) -> FactorizedBackbone:
        """Set the mode as `nn.Module.train` does, but let batch norms use their running statistics.

        In one pass over both paths, batch statistics would mix the paths, and over several ranks
        they would differ per rank. With the pretrained statistics, the full path stays the dense
        model. The batch norms' scale and shift are trained.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def compiled(function: C) -> C:
    """Return torch's compilation of a block's method.

    The methods of all blocks share one code object, for which torch compiles eight graphs and then
    gives up without a word; so each block gets a copy of its own.
    """
    method: Any = function
    plain = method.__func__
    copy = types.FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    result: Any = torch.compile(types.MethodType(copy, method.__self__))
    return cast("C", result)


def _best_design(x: Tensor) -> Design:
    """Return the faster design on the device of x, in the precision that is set.

    On a CPU, and in strict float32, arithmetic takes the time, and gathering saves some of it.
    """
    if not x.is_cuda:
        return "gathered"
    strict = x.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return "masked" if torch.is_autocast_enabled("cuda") or not strict else "gathered"
