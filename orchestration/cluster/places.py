"""Folders that all nodes of a cluster must see: a data set, or a sweep, that isn't on S3."""

from __future__ import annotations

from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dfml.errors import InvalidInput


def check_readable(place: str) -> None:
    """See that each node of the connected cluster finds `place`, if that is a folder. Nodes that are still to come can't be asked.

    Raises:
        InvalidInput: some don't; their addresses are named.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if "://" in place or len(nodes) == 1:
        return
    task = ray.remote(num_cpus=0)(exists)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(place)
        for node in nodes
    ]
    without = [node["NodeManagerAddress"] for node, found in zip(nodes, ray.get(asked), strict=True) if not found]
    if without:
        raise InvalidInput(
            f"{place} isn't there on {len(without)} of {len(nodes)} nodes of the cluster ({', '.join(without)}): give a folder that all nodes "
            "share, or have at the same path, or an s3:// URI"
        )


def exists(place: str) -> bool:
    """Runs on each node."""
    return Path(place).exists()
