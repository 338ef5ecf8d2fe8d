"""The resources of a trial, and the number of concurrent trials."""

from __future__ import annotations

from dataclasses import dataclass

from dfml.errors import InvalidInput
from orchestration.cluster.capacity import Limits, Nodes, grown, limits, present, workers_on

DEFAULT_WORKERS = 2  # per trial, if they fit: with two, even the demo exercises DDP


@dataclass(frozen=True)
class TrialResources:
    """The resources of a trial.

    Attributes:
        workers: Train workers per trial.
        cpus: CPU cores per worker.
        gpu: whether each worker gets a GPU.
        concurrent: number of concurrent trials.
        min_workers: fewest workers a trial may continue with after losing a node.
    """

    workers: int
    cpus: int
    gpu: bool
    concurrent: int
    min_workers: int


def trial_resources(
    workers: int | None, concurrent: int | None = None, min_workers: int | None = None
) -> TrialResources:
    """Divide the connected cluster, at the largest size its autoscaler allows, among trials.

    Each worker gets a GPU if there are any, and an equal share of the cores of its node. On CPUs
    trials run one at a time by default: each sample of the search is then based on all earlier
    results, and the seed alone decides them.

    Args:
        workers: Train workers per trial; None: as many as fit, at most DEFAULT_WORKERS.
        concurrent: number of concurrent trials; None: as many as fit on the GPUs, or 1 on CPUs.
        min_workers: fewest workers a trial may run with; None: `workers`.

    Raises:
        InvalidInput: the cluster can't place this, however far it grows.
    """
    return allocate(present(), limits(), workers, concurrent, min_workers)


def allocate(
    now: list[Nodes],
    limits: Limits,
    workers: int | None,
    concurrent: int | None = None,
    min_workers: int | None = None,
) -> TrialResources:
    """Do as `trial_resources` for a cluster of the nodes `now` that may grow to `limits`."""
    nodes = grown(now, limits)
    gpu = any(each.gpus for each in nodes)
    room = workers_on(nodes, 1, gpu)
    if workers is None:
        workers = max(1, min(DEFAULT_WORKERS, room))
    least = workers if min_workers is None else min_workers
    if not 1 <= least <= workers:
        raise InvalidInput(
            f"--min-workers {least} isn't between 1 and --workers-per-trial {workers}; choose a value in that range"
        )
    if least > room:
        flag = f"--workers-per-trial {workers}" if min_workers is None else f"--min-workers {least}"
        needs = "a GPU and a core of the same node" if gpu else "a core"
        raise InvalidInput(
            f"{flag} is more than the cluster can place: it {_holds(nodes, now)}, and each worker takes {needs}; give "
            f"at most {room} or use a larger cluster"
        )
    fit = max(1, room // workers)
    if concurrent is not None and not 1 <= concurrent <= fit:
        raise InvalidInput(
            f"--concurrent-trials {concurrent} with {workers} worker(s) each is more than the cluster can place: it "
            f"{_holds(nodes, now)}; give 1 to {fit}, or use fewer workers or a larger cluster"
        )
    at_once = concurrent or (fit if gpu else 1)
    together = min(at_once * workers, room)
    cpus = max(c for c in range(1, max(each.cpus for each in nodes) + 1) if workers_on(nodes, c, gpu) >= together)
    return TrialResources(workers=workers, cpus=cpus, gpu=gpu, concurrent=at_once, min_workers=least)


def _holds(nodes: list[Nodes], now: list[Nodes]) -> str:
    """Return "has 2 CPU cores", or "can grow to 8 GPUs and 64 CPU cores on 9 nodes (now 1)"."""
    cpus, gpus = sum(each.count * each.cpus for each in nodes), sum(each.count * each.gpus for each in nodes)
    count = sum(each.count for each in nodes)
    held = f"{gpus} GPUs and {cpus} CPU cores" if gpus else f"{cpus} CPU cores"
    if count > len(now):
        return f"can grow to {held} on {count} nodes (now {len(now)})"
    return f"has {held}" + (f" on {count} nodes" if count > 1 else "")
