"""What a Ray cluster holds: the nodes it has, and those that its autoscaler may add.

Ray itself doesn't tell a driver how far a cluster can grow: only the autoscaler's own configuration does, which lies on the head.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import ray
import yaml

PRIVATE = "dfml-private"  # label of the head of a cluster that lives only as long as the command that started it
HEAD = "node:__internal_head__"  # a resource that the head of each cluster has
HERE = "present"  # kind of nodes that no autoscaler manages


@dataclass(frozen=True)
class Nodes:
    """Nodes that are alike.

    Attributes:
        kind: name of the autoscaler's node type.
        count: how many.
        cpus: CPU cores of each that Ray hands out.
        gpus: GPUs of each.
    """

    kind: str
    count: int
    cpus: int
    gpus: int

    def workers(self, cpus: int, gpu: bool) -> int:
        """How many workers of `cpus` cores, and a GPU if `gpu`, fit; each needs all that it needs from one node."""
        each = self.cpus // cpus
        return self.count * (min(each, self.gpus) if gpu else each)

    def describe(self) -> str:
        return f"{self.count} × {self.kind} with {amount(self.cpus, self.gpus)}"


@dataclass(frozen=True)
class Limits:
    """How far an autoscaler may go.

    Attributes:
        kinds: its node types without the head's, `count` being the most there may be of each.
        workers: the most nodes there may be of all of them.
    """

    kinds: tuple[Nodes, ...] = ()
    workers: int = 0


def amount(cpus: float, gpus: float) -> str:
    """ "2 GPUs and 8 CPU cores"."""
    parts = [f"{gpus:g} GPU{'' if gpus == 1 else 's'}"] if gpus else []
    return " and ".join([*parts, f"{cpus:g} CPU core{'' if cpus == 1 else 's'}"])


def workers_on(nodes: Iterable[Nodes], cpus: int, gpu: bool) -> int:
    """Workers that fit on `nodes`."""
    return sum(each.workers(cpus, gpu) for each in nodes)


def present() -> list[Nodes]:
    """The nodes that are alive now, one entry each; the head is the first."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: HEAD not in node["Resources"])
    return [
        Nodes(HERE, 1, int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in alive
    ]


def grown(now: list[Nodes], limits: Limits) -> list[Nodes]:
    """The nodes of the largest cluster that `now` can become; those with the most GPUs come first where not all fit in.

    A node of `now` counts as one of the autoscaler's if it is of the size of one of its types.
    """
    sizes = {(kind.cpus, kind.gpus) for kind in limits.kinds}
    fixed = [node for i, node in enumerate(now) if i == 0 or (node.cpus, node.gpus) not in sizes]
    left, added = limits.workers, []
    for kind in sorted(limits.kinds, key=lambda kind: (-kind.gpus, -kind.cpus)):
        added.append(replace(kind, count=min(kind.count, left)))
        left -= added[-1].count
    return [*fixed, *(kind for kind in added if kind.count > 0)]


def is_private() -> bool:
    """Whether the connected cluster was started by a sweep for itself."""
    return any(PRIVATE in (node["Labels"] or {}) for node in ray.nodes() if node["Alive"])


def limits() -> Limits:
    """How far the connected cluster's autoscaler may go; nothing where it has none. Read once: it takes a task on the head."""
    return Limits() if is_private() else _limits(ray.get_runtime_context().gcs_address)


@cache
def _limits(gcs_address: str) -> Limits:
    task = ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_retries=1)(autoscaling_config)
    config = ray.get(task.remote(gcs_address), timeout=120)
    return limits_of(config) if config else Limits()


def limits_of(config: dict[str, Any]) -> Limits:
    """The limits that an autoscaler's configuration sets. Types that don't say what they hold (own machines) are left out."""
    kinds = tuple(
        Nodes(name, kind.get("max_workers", config["max_workers"]), int(held.get("CPU", 0)), int(held.get("GPU", 0)))
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"] and (held := kind.get("resources"))
    )
    return Limits(kinds, config["max_workers"])


def autoscaling_config(gcs_address: str) -> dict[str, Any] | None:
    """The configuration of the autoscaler that serves the cluster of `gcs_address`; runs on its head.

    Both versions of the autoscaler are started by `ray start --autoscaling-config=FILE`, on Kubernetes both read the RayCluster.
    """
    if "KUBERNETES_SERVICE_HOST" in os.environ and (name := os.environ.get("RAY_CLUSTER_NAME")):
        return _of_kuberay(name)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if flags.get("gcs-address") == gcs_address and flags.get("autoscaling-config"):
            return yaml.safe_load(Path(flags["autoscaling-config"]).expanduser().read_text())
    return None


def _of_kuberay(name: str) -> dict[str, Any] | None:
    """As KubeRay's autoscaler derives it from the RayCluster `name`; KubeRay lets a head read that only if it runs an autoscaler."""
    import requests
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    namespace = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    if not namespace.exists():
        return None
    try:
        ray_cluster = KubernetesHttpApiClient(namespace.read_text()).get(f"rayclusters/{name}")
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code == 403:
            return None
        raise
    return (
        _derive_autoscaling_config_from_ray_cr(ray_cluster)
        if ray_cluster["spec"].get("enableInTreeAutoscaling")
        else None
    )
