"""The resources of a trial, and the number of concurrent trials."""

from __future__ import annotations

from dataclasses import dataclass, field

from dfml.errors import InvalidInput
from orchestration.cluster.capacity import GPU_PARTS, Limits, Nodes, grown, limits, present, total, workers_on

CPU_WORKERS = 2  # per trial without GPUs, if they fit: with two, even the demo exercises DDP
# Images per step for which one more GPU pays: with fewer, a GPU computes for less time than the
# launches of the step's kernels take. Estimated for ViT-S in float32 on an H100, not measured.
IMAGES_PER_GPU = 24
CHANGE = "; --workers-per-trial changes it"


@dataclass(frozen=True)
class Demand:
    """The resources that a sweep asks for; None leaves a number to `allocate`.

    Attributes:
        trials: number of trials that are left.
        runs: number of runs of the winner, which follow the trials.
        batch_size: the smallest batch that a trial may have.
        workers: Train workers per trial.
        begun: whether `workers` is the number that the sweep was begun with.
        min_workers: fewest workers a trial may run with; None: `workers`.
        concurrent: number of concurrent trials.
        gpus_per_worker: GPUs per worker, more than 0 and at most 1; None: 1 if there are GPUs.
    """

    trials: int
    batch_size: int
    runs: int = 1
    workers: int | None = None
    begun: bool = False
    min_workers: int | None = None
    concurrent: int | None = None
    gpus_per_worker: float | None = None


@dataclass(frozen=True)
class TrialResources:
    """The resources of a trial.

    Attributes:
        workers: Train workers per trial.
        cpus: CPU cores per worker.
        gpus: GPUs per worker, a fraction if trials share one; 0 on CPUs.
        concurrent: number of concurrent trials.
        min_workers: fewest workers a trial may continue with after losing a node.
        reason: the reason for the number of workers, for the user.
    """

    workers: int
    cpus: int
    gpus: float
    concurrent: int
    min_workers: int
    reason: str = field(default="", compare=False)


def trial_resources(demand: Demand) -> TrialResources:
    """Divide the connected cluster, at the largest size its autoscaler allows, among trials.

    If there are GPUs, each worker gets one or a part of one. By default a trial has one worker, and
    as many trials run at once as there are GPUs: they don't wait for each other. Only if fewer
    trials are left, GPUs of the same node are divided among them.

    On CPUs trials run one at a time by default: each sample of the search is then based on all
    earlier results, and the seed alone decides them.

    Each worker gets an equal share of the cores of its node.

    Raises:
        InvalidInput: the cluster can't place this, however far it grows.
    """
    return allocate(present(), limits(), demand)


def allocate(now: list[Nodes], limits: Limits, demand: Demand) -> TrialResources:
    """Do as `trial_resources` for a cluster of the nodes `now` that may grow to `limits`."""
    nodes = grown(now, limits)
    gpus = 0.0
    if any(each.gpus for each in nodes):
        gpus = demand.gpus_per_worker or 1.0
    elif demand.gpus_per_worker is not None:
        raise InvalidInput(
            f"--gpus-per-worker {demand.gpus_per_worker:g} can't be used: the cluster has no GPU (it "
            f"{_holds(nodes, now)}); leave it out to train on CPU cores"
        )
    room = workers_on(nodes, 1, gpus)
    workers, reason = _workers(nodes, gpus, room, demand)
    least = workers if demand.min_workers is None else demand.min_workers
    if not 1 <= least <= workers:
        raise InvalidInput(
            f"--min-workers {least} isn't between 1 and the {workers} worker(s) of a trial; choose a value in that "
            f"range{'' if demand.begun else ', or another --workers-per-trial'}"
        )
    if least > room:
        raise InvalidInput(_no_room(nodes, now, gpus, room, workers, demand))
    fit = max(1, room // workers)
    if demand.concurrent is not None and not 1 <= demand.concurrent <= fit:
        raise InvalidInput(
            f"--concurrent-trials {demand.concurrent} with {workers} worker(s) each is more than the cluster can "
            f"place: it {_holds(nodes, now)}; give 1 to {fit}, or use fewer workers or a larger cluster"
        )
    # No cores are left to trials that don't exist.
    at_once = demand.concurrent or (min(fit, max(1, demand.trials, demand.runs)) if gpus else 1)
    cpus = _cpus_per_worker(nodes, gpus, workers, at_once, min(at_once * workers, room))
    return TrialResources(workers, cpus, gpus, at_once, least, reason)


def _no_room(nodes: list[Nodes], now: list[Nodes], gpus: float, room: int, workers: int, demand: Demand) -> str:
    """Return the sentence on a trial with more workers than the cluster can place."""
    worker = f"{'a GPU' if gpus == 1 else f'{gpus:g} GPUs'} and a core of the same node" if gpus else "a core"
    place = f"the cluster can place: it {_holds(nodes, now)}, and each worker takes {worker}"
    if room == 0:
        return f"even one worker is more than {place}; use a larger cluster"
    if demand.min_workers is not None:
        return f"--min-workers {demand.min_workers} is more than {place}; give at most {room} or use a larger cluster"
    if demand.begun:
        return (
            f"the sweep was begun with {workers} workers per trial, which is more than {place}; use a larger cluster, "
            f"or add --min-workers {room} to continue with fewer"
        )
    return f"--workers-per-trial {workers} is more than {place}; give at most {room} or use a larger cluster"


def _workers(nodes: list[Nodes], gpus: float, room: int, demand: Demand) -> tuple[int, str]:
    """Return the number of workers per trial, and the reason for it.

    Args:
        nodes: the nodes of the cluster.
        gpus: GPUs per worker.
        room: the number of workers for which there is room.
        demand: the sweep's demand.
    """
    if demand.workers is not None:
        return demand.workers, "as when the sweep was begun" if demand.begun else "as --workers-per-trial says"
    if room <= 1:
        return 1, "there is room for one worker"
    if not gpus:
        return CPU_WORKERS, f"{CPU_WORKERS} workers are the default without GPUs{CHANGE}"
    if gpus < 1:
        return 1, f"up to {GPU_PARTS // round(gpus * GPU_PARTS)} worker(s) per GPU, each of another trial"
    at_once = min(demand.trials, demand.concurrent or demand.trials)
    if at_once >= room:
        return 1, f"one GPU per trial, as there are {demand.trials} trial(s) for {room} usable GPUs{CHANGE}"
    divided, near, paying = room // at_once, _on_one_node(nodes, at_once), max(1, demand.batch_size // IMAGES_PER_GPU)
    workers = min(near, paying)
    if workers == divided:
        return workers, f"{room} usable GPUs are divided among {at_once} trial(s) at once{CHANGE}"
    if workers == paying:
        few = f"a batch of {demand.batch_size} images would leave each GPU fewer than {IMAGES_PER_GPU}"
        return workers, f"with more workers, {few}{CHANGE}"
    return workers, f"with more workers, a trial would span nodes{CHANGE}"


def _on_one_node(nodes: list[Nodes], trials: int) -> int:
    """Return the most GPUs per trial, at least 1, with which no trial spans nodes.

    Between nodes, exchanging gradients may take longer than computing them.
    """
    most = max(each.workers_per_node(1, 1) for each in nodes)
    return max((n for n in range(1, most + 1) if _unsplit(nodes, 1, 1, n) >= trials), default=1)


def _unsplit(nodes: list[Nodes], cpus: int, gpus: float, workers: int) -> int:
    """Return the number of trials for which there is room if none of them spans nodes."""
    return sum(each.count * (each.workers_per_node(cpus, gpus) // workers) for each in nodes)


def _cpus_per_worker(nodes: list[Nodes], gpus: float, workers: int, trials: int, together: int) -> int:
    """Return the most CPU cores per worker with which `together` workers of `trials` trials fit.

    With GPUs, trials that fit on single nodes stay there. Without, several nodes have more cores.
    """
    unsplit = gpus and _unsplit(nodes, 1, gpus, workers) >= trials
    return max(
        cpus
        for cpus in range(1, max(each.cpus for each in nodes) + 1)
        if (_unsplit(nodes, cpus, gpus, workers) >= trials if unsplit else workers_on(nodes, cpus, gpus) >= together)
    )


def _holds(nodes: list[Nodes], now: list[Nodes]) -> str:
    """Return "has 2 CPU cores", or "can grow to 8 GPUs and 64 CPU cores on 9 nodes (now 1)"."""
    count = sum(each.count for each in nodes)
    if count > len(now):
        return f"can grow to {total(nodes)} on {count} nodes (now {len(now)})"
    return f"has {total(nodes)}" + (f" on {count} nodes" if count > 1 else "")
