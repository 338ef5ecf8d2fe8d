"""The losses by name, and the constants that the publication's code gives them. Needs no torch, so that recipes can check themselves."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from dfml.errors import InvalidInput

MetricLossName = Literal[
    "proxy_anchor", "proxy_nca", "ms", "contrastive", "triplet", "npair", "margin", "ntxent", "supcon"
]
LossName = Literal[MetricLossName, "cross_entropy"]  # the latter for classification


class Constants(NamedTuple):
    """What a recipe may change of a loss; None: the loss has no such value."""

    proxies: bool  # its parameters are proxies, which learn at a rate of their own
    pairs: bool  # compares images of a batch with each other, so that a batch must hold several of a class
    alpha: float | None = None
    margin: float | None = None  # the publication's `mrg`


CONSTANTS: dict[str, Constants] = {
    "proxy_anchor": Constants(proxies=True, pairs=False, alpha=32.0, margin=0.1),
    "proxy_nca": Constants(proxies=True, pairs=False),
    "ms": Constants(proxies=False, pairs=True),
    "contrastive": Constants(proxies=False, pairs=True, margin=0.5),
    "triplet": Constants(proxies=False, pairs=True, margin=0.2),
    "npair": Constants(proxies=False, pairs=True),
    "margin": Constants(proxies=False, pairs=True, margin=0.2),
    "ntxent": Constants(proxies=False, pairs=True),
    "supcon": Constants(proxies=False, pairs=True),
    "cross_entropy": Constants(proxies=False, pairs=False),
}


def loss_name(name: str) -> LossName:
    """A loss's name here from the publication's `--loss`: "Proxy_Anchor" to "proxy_anchor", whatever its case.

    Raises:
        InvalidInput: there is no such loss.
    """
    names = get_args(LossName)
    for known in names:
        if known == name.lower():
            loss: LossName = known
            return loss
    raise InvalidInput(f"unknown loss {name!r}: name one of {', '.join(names)}")
