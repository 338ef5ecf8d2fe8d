"""The capacity of a Ray cluster: the nodes it has, and the nodes that its autoscaler may add.

Ray doesn't report to a driver how far a cluster can grow: only the autoscaler's own configuration
on the head holds that.
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

PRIVATE = "dfml-private"  # label of the head of a cluster that ends with the command that started it
HEAD = "node:__internal_head__"  # a resource that the head of each cluster has
HERE = "present"  # kind of nodes that no autoscaler manages
GPU_PARTS = 10_000  # the smallest part of a GPU that Ray allocates is one of so many


@dataclass(frozen=True)
class Nodes:
    """A number of nodes of equal size.

    Attributes:
        kind: name of the autoscaler's node type.
        count: number of nodes.
        cpus: CPU cores per node that Ray allocates.
        gpus: GPUs per node; a fraction if a part of one is free.
    """

    kind: str
    count: int
    cpus: int
    gpus: float

    def workers_per_node(self, cpus: int, gpus: float) -> int:
        """Return how many workers fit on each of these nodes.

        Args:
            cpus: CPU cores per worker.
            gpus: GPUs per worker, from 0 to 1; no worker has parts of two GPUs.
        """
        each = self.cpus // cpus
        if gpus == 0:
            return each
        share = round(gpus * GPU_PARTS)
        whole, rest = divmod(round(self.gpus * GPU_PARTS), GPU_PARTS)
        return min(each, whole * (GPU_PARTS // share) + rest // share)

    def workers(self, cpus: int, gpus: float) -> int:
        """Return how many workers fit on all of these nodes (see `workers_per_node`)."""
        return self.count * self.workers_per_node(cpus, gpus)

    def describe(self) -> str:
        return f"{self.count} × {self.kind} with {amount(self.cpus, self.gpus)}"


@dataclass(frozen=True)
class Limits:
    """The limits of an autoscaler.

    Attributes:
        kinds: its node types without the head's; `count` is the largest number of such nodes.
        workers: the largest number of nodes of all these types together.
    """

    kinds: tuple[Nodes, ...] = ()
    workers: int = 0


def amount(cpus: float, gpus: float) -> str:
    """Return a text such as "2 GPUs and 8 CPU cores"."""
    parts = [f"{gpus:g} GPU{'' if gpus == 1 else 's'}"] if gpus else []
    return " and ".join([*parts, f"{cpus:g} CPU core{'' if cpus == 1 else 's'}"])


def total(nodes: Iterable[Nodes]) -> str:
    """Return the GPUs and CPU cores of `nodes` together, as `amount` does."""
    nodes = list(nodes)
    return amount(sum(each.count * each.cpus for each in nodes), sum(each.count * each.gpus for each in nodes))


def workers_on(nodes: Iterable[Nodes], cpus: int, gpus: float) -> int:
    """Return the number of workers that fit on `nodes` (see `Nodes.workers_per_node`)."""
    return sum(each.workers(cpus, gpus) for each in nodes)


def present() -> list[Nodes]:
    """Return the nodes that are alive now, one entry per node; the head is the first."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: HEAD not in node["Resources"])
    return [
        Nodes(HERE, 1, int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in alive
    ]


def grown(now: list[Nodes], limits: Limits) -> list[Nodes]:
    """Return the nodes of the largest cluster that `now` can grow to.

    If not all types fit, nodes with more GPUs come first. A node of `now` counts as one of the
    autoscaler's if it has the size of one of its types.
    """
    sizes = {(kind.cpus, kind.gpus) for kind in limits.kinds}
    fixed = [node for i, node in enumerate(now) if i == 0 or (node.cpus, node.gpus) not in sizes]
    left, added = limits.workers, []
    for kind in sorted(limits.kinds, key=lambda kind: (-kind.gpus, -kind.cpus)):
        added.append(replace(kind, count=min(kind.count, left)))
        left -= added[-1].count
    return [*fixed, *(kind for kind in added if kind.count > 0)]


def is_private() -> bool:
    """Return whether a sweep started the connected cluster for itself."""
    return any(PRIVATE in (node["Labels"] or {}) for node in ray.nodes() if node["Alive"])


def limits() -> Limits:
    """Return the limits of the connected cluster's autoscaler; empty limits if there is none.

    They are read once, since that takes a task on the head.
    """
    return Limits() if is_private() else _limits(ray.get_runtime_context().gcs_address)


@cache
def _limits(gcs_address: str) -> Limits:
    task = ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_retries=1)(autoscaling_config)
    config = ray.get(task.remote(gcs_address), timeout=120)
    return limits_of(config) if config else Limits()


def limits_of(config: dict[str, Any]) -> Limits:
    """Return the limits in an autoscaler's configuration.

    Node types without resources (as for own machines) are left out.
    """
    kinds = tuple(
        Nodes(name, kind.get("max_workers", config["max_workers"]), int(held.get("CPU", 0)), int(held.get("GPU", 0)))
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"] and (held := kind.get("resources"))
    )
    return Limits(kinds, config["max_workers"])


def autoscaling_config(gcs_address: str) -> dict[str, Any] | None:
    """Return the configuration of the autoscaler of the cluster at `gcs_address`; runs on its head.

    `ray start --autoscaling-config=FILE` starts both versions of the autoscaler; on Kubernetes both
    read the RayCluster.
    """
    if "KUBERNETES_SERVICE_HOST" in os.environ and (name := os.environ.get("RAY_CLUSTER_NAME")):
        return _of_kuberay(name)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # the process has ended
            continue
        flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if flags.get("gcs-address") == gcs_address and flags.get("autoscaling-config"):
            return yaml.safe_load(Path(flags["autoscaling-config"]).expanduser().read_text())
    return None


def _of_kuberay(name: str) -> dict[str, Any] | None:
    """Derive the configuration from the RayCluster `name`, as KubeRay's autoscaler does.

    KubeRay lets a head read the RayCluster only if the head runs an autoscaler.
    """
    import requests

    from orchestration.cluster.ray_internals import KubernetesHttpApiClient, _derive_autoscaling_config_from_ray_cr

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
