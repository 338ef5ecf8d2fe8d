"""The names of the losses and their constants in the publication's code; imports no torch."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from dfml.errors import InvalidInput

MetricLossName = Literal[
    "proxy_anchor", "proxy_nca", "ms", "contrastive", "triplet", "npair", "margin", "ntxent", "supcon"
]
LossName = Literal[MetricLossName, "cross_entropy"]  # the latter for classification


class Constants(NamedTuple):
    """Properties of a loss, and constants that a recipe may override (None: the loss has none)."""

    proxies: bool  # its parameters are proxies, which have their own learning rate
    pairs: bool  # it compares images within a batch, which must hold several images per class
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
    """Return the name of a loss from the publication's `--loss` in any case, such as Proxy_Anchor.

    Raises:
        InvalidInput: there is no such loss.
    """
    names = get_args(LossName)
    for known in names:
        if known == name.lower():
            loss: LossName = known
            return loss
    raise InvalidInput(f"unknown loss {name!r}; name one of {', '.join(names)}")
