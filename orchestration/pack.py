"""`python -m orchestration.pack`: as `python -m dfml.data pack`, over all cores of a Ray cluster.

RAY_ADDRESS names the cluster; without, one is started on this machine. All nodes must see --root (a shared folder) and --out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import ray

import orchestration.environment  # noqa: F401  (must come before anything that imports ray)
from dfml.data.__main__ import main
from dfml.data.packing import Job, Packed
from orchestration.cluster import cluster

AHEAD = 2  # jobs a core that are handed out at a time: enough that none idles, few enough that little is held in Ray's store


def over_cluster(pack_one: Callable[[Job], Packed], jobs: Sequence[Job]) -> Iterator[tuple[Job, Packed]]:
    """A `Runner` for `dfml.data.packing`: a Ray task a shard; those of a lost node are done again elsewhere."""
    with cluster() as where:
        print(where, file=sys.stderr, flush=True)
        task = ray.remote(max_retries=3)(_call)
        pending: dict[ray.ObjectRef, Job] = {}
        waiting = list(reversed(jobs))
        while waiting or pending:
            while waiting and len(pending) < AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))):
                job = waiting.pop()
                pending[task.remote(pack_one, job)] = job
            (ended, *_), _ = ray.wait(list(pending))
            yield pending.pop(ended), ray.get(ended)


def _call(pack_one: Callable[[Job], Packed], job: Job) -> Packed:
    return pack_one(job)


if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]], over_cluster))
