"""What a trial gets of a cluster, and how many trials run at once."""

from __future__ import annotations

from dataclasses import dataclass

from dfml.errors import InvalidInput
from orchestration.cluster.capacity import Limits, Nodes, grown, limits, present, workers_on

DEFAULT_WORKERS = 2  # of a trial, where so many fit: DDP is then tried even by the demo


@dataclass(frozen=True)
class Share:
    """What a trial gets of a cluster.

    Attributes:
        workers: Train workers of a trial.
        cpus: CPU cores of each.
        gpu: whether each has a GPU.
        concurrent: trials that run at once.
        min_workers: with how few workers a trial may go on after a node was lost.
    """

    workers: int
    cpus: int
    gpu: bool
    concurrent: int
    min_workers: int


def share(workers: int | None, concurrent: int | None = None, min_workers: int | None = None) -> Share:
    """Divide the connected cluster, as large as its autoscaler may make it, among trials.

    Each worker gets a GPU where there are any, and an equal part of the cores of its node. Without GPUs one trial at a time, unless
    `concurrent` says otherwise: each sample of the search then knows all earlier results, and a seed decides all.

    Args:
        workers: Train workers of a trial; None for as many as fit, at most DEFAULT_WORKERS.
        concurrent: trials at once; by default as many as fit on GPUs, one on CPUs.
        min_workers: with how few a trial may run; by default `workers`.

    Raises:
        InvalidInput: that can't be placed on this cluster, however far it grows.
    """
    return divide(present(), limits(), workers, concurrent, min_workers)


def divide(
    now: list[Nodes],
    limits: Limits,
    workers: int | None,
    concurrent: int | None = None,
    min_workers: int | None = None,
) -> Share:
    """As `share`, of a cluster that has the nodes `now` and may grow to `limits`."""
    nodes = grown(now, limits)
    gpu = any(each.gpus for each in nodes)
    room = workers_on(nodes, 1, gpu)
    if workers is None:
        workers = max(1, min(DEFAULT_WORKERS, room))
    least = workers if min_workers is None else min_workers
    if not 1 <= least <= workers:
        raise InvalidInput(
            f"--min-workers {least} isn't between 1 and --workers-per-trial {workers}: with how few workers may a trial go on?"
        )
    if least > room:
        flag = f"--workers-per-trial {workers}" if min_workers is None else f"--min-workers {least}"
        needs = "a GPU and a core of the same node" if gpu else "a core"
        raise InvalidInput(
            f"{flag} is more than the cluster can place: it {_holds(nodes, now)}, and each worker takes {needs}; give at most {room} "
            "or a larger cluster"
        )
    fit = max(1, room // workers)
    if concurrent is not None and not 1 <= concurrent <= fit:
        raise InvalidInput(
            f"--concurrent-trials {concurrent} with {workers} worker(s) each is more than the cluster can place: it "
            f"{_holds(nodes, now)}; give 1 to {fit}, fewer workers or a larger cluster"
        )
    at_once = concurrent or (fit if gpu else 1)
    together = min(at_once * workers, room)
    cpus = max(c for c in range(1, max(each.cpus for each in nodes) + 1) if workers_on(nodes, c, gpu) >= together)
    return Share(workers=workers, cpus=cpus, gpu=gpu, concurrent=at_once, min_workers=least)


def _holds(nodes: list[Nodes], now: list[Nodes]) -> str:
    """ "has 2 CPU cores" or "can grow to 8 GPUs and 64 CPU cores on 9 nodes (now 1)"."""
    cpus, gpus = sum(each.count * each.cpus for each in nodes), sum(each.count * each.gpus for each in nodes)
    count = sum(each.count for each in nodes)
    held = f"{gpus} GPUs and {cpus} CPU cores" if gpus else f"{cpus} CPU cores"
    if count > len(now):
        return f"can grow to {held} on {count} nodes (now {len(now)})"
    return f"has {held}" + (f" on {count} nodes" if count > 1 else "")
