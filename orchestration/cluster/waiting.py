"""The reason why a trial waits: its needs, free and held resources, and nodes to be added."""

from __future__ import annotations

import json
import textwrap
from collections import defaultdict
from typing import Any

import ray
from ray.util import placement_group_table

from orchestration.cluster.capacity import HERE, Nodes, amount, grown, limits, present, total, workers_on
from orchestration.cluster.ray_internals import (
    DEBUG_AUTOSCALING_STATUS,
    _internal_kv_get,
    available_resources_per_node,
    get_cluster_status,
    jobs,
)
from orchestration.cluster.resources import TrialResources

JOB_HEX = 8  # a placement group's id ends with that of the job that made it


def waiting_for(resources: TrialResources) -> str | None:
    """Return the reason why no trial can be placed now, in one sentence; None if one can.

    This makes a few calls to the GCS, which take milliseconds.
    """
    free = [
        # Parts of several GPUs are added up: Ray doesn't report them one by one.
        Nodes(HERE, 1, int(held.get("CPU", 0)), held.get("GPU", 0))
        for held in available_resources_per_node().values()
    ]
    if workers_on(free, resources.cpus, resources.gpus) >= resources.min_workers:
        return None
    now = present()
    worker = amount(resources.cpus, resources.gpus)
    fewest = f" (at least {resources.min_workers})" if resources.min_workers < resources.workers else ""
    parts = [
        f"a trial needs {resources.workers} worker(s){fewest} with {worker} each, and a worker can't span nodes",
        f"the cluster has {total(now)} on {len(now)} node(s), of which {total(free)} are free",
        *_holders(),
        _growth(resources, now),
    ]
    return "; ".join(parts)


def _holders() -> list[str]:
    """Describe the jobs that hold resources in placement groups; Ray doesn't list single tasks."""
    held: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for group in placement_group_table().values():
        if group["state"] != "CREATED":
            continue
        job = group["placement_group_id"][-JOB_HEX:]
        for bundle in group["bundles"].values():
            held[job][0] += bundle.get("CPU", 0)
            held[job][1] += bundle.get("GPU", 0)
    own = ray.get_runtime_context().get_job_id()
    known = {job["JobID"]: job for job in jobs()} if held.keys() - {own} else {}
    return [
        f"{amount(*held[job])} are held by {'this sweep' if job == own else _job(job, known.get(job))}"
        for job in sorted(held, key=lambda job: job != own)
        if any(held[job])
    ]


def _job(number: str, job: dict[str, Any] | None) -> str:
    if job is None:
        return f"job {number}"
    command = textwrap.shorten(job["Entrypoint"], 120, placeholder=" …")
    return f"job {number} ({command}, from {job['DriverIPAddress']})"


def _growth(resources: TrialResources, now: list[Nodes]) -> str:
    """Describe the nodes that the autoscaler may add, is starting, or failed to start."""
    most = limits()
    kinds = {kind.kind for kind in most.kinds}
    largest = grown(now, most)
    more = sum(each.count for each in largest) - len(now)
    if not kinds:
        return "no autoscaler adds nodes here"
    if more <= 0:
        return "the autoscaler can't add any more nodes"
    fitting = [each for each in largest if each.kind in kinds and each.workers(resources.cpus, resources.gpus)]
    if not fitting:
        return "no node that the autoscaler may add is large enough for a worker"
    starting, failed = _launches()
    parts = [f"the autoscaler may add {more} node(s) ({', '.join(each.kind for each in fitting)})"]
    if starting:
        parts.append(f"it is starting {starting}")
    if failed:
        parts.append(f"its last launch failed ({failed})")
    return ", ".join(parts)


def _launches() -> tuple[int, str]:
    """Return the number of nodes being started, and why the last launch failed.

    Each version of the autoscaler has its own report.
    """
    if status := _internal_kv_get(DEBUG_AUTOSCALING_STATUS):  # version 1
        report = json.loads(status).get("autoscaler_report") or {}
        starting = sum((report.get("pending_launches") or {}).values()) + len(report.get("pending_nodes") or [])
        summary = (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
        reasons = [
            record["unavailable_node_information"]["description"]
            for record in summary.values()
            if not record["is_available"] and record.get("unavailable_node_information")
        ]
        return starting, reasons[-1] if reasons else ""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    starting = sum(launch.count for launch in status.pending_launches) + len(status.pending_nodes)
    return starting, status.failed_launches[-1].details if status.failed_launches else ""
