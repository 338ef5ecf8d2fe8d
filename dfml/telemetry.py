"""Router telemetry: how evenly the sub-blocks are used, how surely routers choose, and whether they still change their minds.

R routers, K sub-blocks. A router that sends nearly all tokens one way has collapsed: its block then trains, and at routed
inference is, a K-th of itself.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from dfml.distributed import rank, sum_over_ranks
from dfml.factorized import FactorizedBackbone, RoutingSums
from dfml.factorized.router import Router, Routing

COLLAPSED = 0.95  # share of a router's tokens through one sub-block from which on it counts as collapsed
PROBE_IMAGES = 16

log = logging.getLogger(__name__)


class RouterTelemetry:
    """Follows the routers of a backbone through one epoch, at whose beginning it is made.

    Args:
        backbone: its routers are followed.
        probe: images (n, 3, H, W), the same in every epoch, on which a change of choice is seen.
    """

    def __init__(self, backbone: FactorizedBackbone, probe: Tensor) -> None:
        self.backbone = backbone
        self.probe = probe
        self.sums: RoutingSums | None = None
        self.before = self._choices()

    def add(self, routing: RoutingSums) -> None:
        """Count a step's tokens; of this rank, without gradient."""
        routing = RoutingSums(*(sums.double() for sums in routing))  # float32 can't count an epoch of ImageNet's
        sums = self.sums
        self.sums = routing if sums is None else RoutingSums(*(a + b for a, b in zip(sums, routing, strict=True)))

    def state(self) -> dict[str, Tensor]:
        """What `resume` goes on from in the middle of the epoch; over all ranks, which must all call it."""
        assert self.sums is not None
        sums = {name: sum_over_ranks(value.clone()) for name, value in self.sums._asdict().items()}
        return {**sums, "before": self.before}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave, in as many processes as there are now."""
        sums = {name: value.to(self.before.device) for name, value in state.items()}
        self.before = sums.pop("before")
        if rank() == 0:  # they are of all ranks
            self.sums = RoutingSums(**sums)

    def figures(self) -> dict[str, float]:
        """The epoch's figures over all ranks, which must all call it once, at its end.

        Returns:
            `router_load_<r>_<k>`: share of router r's tokens that went through sub-block k, r counted through the network
            (a ViT block has two: attention, MLP); `router_entropy`: mean entropy of p, 0 … 1 (of ln K); `router_switched`:
            share of the probe's tokens that choose otherwise than at the epoch's beginning; `routers_collapsed`: how many.
        """
        assert self.sums is not None
        tokens, entropy = (sum_over_ranks(sums) for sums in (self.sums.tokens, self.sums.entropy))
        total, routers = tokens.sum(dim=1), tokens.shape[1]
        loads = (tokens / total[:, None]).cpu()  # (R, K)
        collapsed = torch.nonzero(loads.max(dim=1).values > COLLAPSED).flatten().tolist() if routers > 1 else []
        if collapsed and rank() == 0:
            worst = int(loads.max(dim=1).values.argmax())
            log.warning(
                "%d of %d routers have collapsed: router %d sends %.0f %% of its tokens through one of %d sub-blocks; if the load is to be "
                "shared, raise balance_weight (to 1 to 10 with Proxy-Anchor)",
                len(collapsed), len(loads), worst, 100 * float(loads[worst].max()), routers,
            )  # fmt: skip
        return {
            "router_entropy": float((entropy / total).mean()) / (math.log(routers) if routers > 1 else 1.0),
            "router_switched": float((self._choices() != self.before).double().mean()),
            "routers_collapsed": float(len(collapsed)),
            **{f"router_load_{r}_{k}": float(load) for r, row in enumerate(loads) for k, load in enumerate(row)},
        }

    @torch.inference_mode()
    def _choices(self) -> Tensor:
        """The sub-block of each of the probe's tokens at each router, one after another."""
        found: list[Tensor] = []

        def keep(router: Router, inputs: tuple[Tensor], routing: Routing) -> None:
            found.append(routing.chosen)

        hooks = [router.register_forward_hook(keep) for router in self.backbone.all_routers()]
        try:
            self.backbone(self.probe, "routed")
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(found)
