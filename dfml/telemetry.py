"""Router telemetry: the load of each sub-block, the routers' entropy, and changes of their choices.

R routers, K sub-blocks. A router that sends nearly all tokens through one sub-block has collapsed:
its block then trains, and at routed inference uses, only 1/K of itself.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from dfml.distributed import rank, sum_over_ranks
from dfml.factorized import FactorizedBackbone, RoutingSums
from dfml.factorized.router import Router, Routing

COLLAPSED = 0.95  # share of a router's tokens through one sub-block, above which it has collapsed
PROBE_IMAGES = 16

log = logging.getLogger(__name__)


class RouterTelemetry:
    """Accumulate routing statistics over one epoch. Create one at the start of each epoch.

    Args:
        backbone: the backbone whose routers are observed.
        probe: the images (n, 3, H, W), the same in every epoch, on which changes are counted.
    """

    def __init__(self, backbone: FactorizedBackbone, probe: Tensor) -> None:
        self.backbone = backbone
        self.probe = probe
        self.sums: RoutingSums | None = None
        self.before = self._choices()

    def add(self, routing: RoutingSums) -> None:
        """Add the sums of one step on this rank, without gradient."""
        # float32 can't count the tokens of an epoch of ImageNet.
        routing = RoutingSums(*(sums.double() for sums in routing))
        sums = self.sums
        self.sums = routing if sums is None else RoutingSums(*(a + b for a, b in zip(sums, routing, strict=True)))

    def state(self) -> dict[str, Tensor]:
        """Return the state over all ranks from which `resume` continues; all ranks must call it."""
        assert self.sums is not None
        sums = {name: sum_over_ranks(value.clone()) for name, value in self.sums._asdict().items()}
        return {**sums, "before": self.before}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Continue from a result of `state`; the number of ranks may have changed."""
        sums = {name: value.to(self.before.device) for name, value in state.items()}
        self.before = sums.pop("before")
        # The sums are already over all ranks.
        if rank() == 0:
            self.sums = RoutingSums(**sums)

    def metrics(self) -> dict[str, Any]:
        """Return the epoch's metrics over all ranks; all ranks must call it once, at its end.

        Returns:
            `router_load`: the share of each router's tokens through each sub-block, R rows of K, in
            the order of the network (a ViT block has two routers: attention, MLP);
            `router_entropy`: the mean entropy of p as a share of ln K; `router_switched`: the share
            of the probe's tokens whose choice differs from that at the epoch's start;
            `routers_collapsed`: the number of collapsed routers.
        """
        assert self.sums is not None
        tokens, entropy = (sum_over_ranks(sums) for sums in (self.sums.tokens, self.sums.entropy))
        total, num_sub_blocks = tokens.sum(dim=1), tokens.shape[1]
        loads = (tokens / total[:, None]).cpu()  # (R, K)
        collapsed = torch.nonzero(loads.max(dim=1).values > COLLAPSED).flatten().tolist() if num_sub_blocks > 1 else []
        if collapsed and rank() == 0:
            worst = int(loads.max(dim=1).values.argmax())
            log.warning(
                "%d of %d routers have collapsed: router %d sends %.0f %% of its tokens through one of %d sub-blocks; "
                "to balance the load, raise balance_weight (1 to 10 with Proxy-Anchor)",
                len(collapsed), len(loads), worst, 100 * float(loads[worst].max()), num_sub_blocks,
            )  # fmt: skip
        return {
            "router_entropy": float((entropy / total).mean())
            / (math.log(num_sub_blocks) if num_sub_blocks > 1 else 1.0),
            "router_switched": float((self._choices() != self.before).double().mean()),
            "routers_collapsed": float(len(collapsed)),
            "router_load": loads.tolist(),
        }

    @torch.inference_mode()
    def _choices(self) -> Tensor:
        """Return the sub-block of each of the probe's tokens at each router, concatenated."""
        found: list[Tensor] = []

        def keep(router: Router, inputs: tuple[Tensor], routing: Routing) -> None:
            found.append(routing.chosen)

        hooks = [router.register_forward_hook(keep) for router in self.backbone.routers()]
        try:
            self.backbone(self.probe, "routed")
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(found)
