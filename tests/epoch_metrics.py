"""Conversion of an epoch's metrics to plain numbers, for comparisons."""

from __future__ import annotations

from dfml.task import EpochMetrics


def flat(metrics: EpochMetrics) -> dict[str, float]:
    """Return the metrics with one number per router and sub-block in place of the loads."""
    loads = metrics.get("router_load", [])
    numbers = {name: value for name, value in metrics.items() if name != "router_load"}
    return numbers | {f"router_load_{r}_{k}": load for r, row in enumerate(loads) for k, load in enumerate(row)}
