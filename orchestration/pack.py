"""`python -m orchestration.pack`: as `python -m dfml.data pack`, over all cores of a Ray cluster.

RAY_ADDRESS names the cluster; without, one is started on this machine. All nodes must see --root (a shared folder) and --out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence

# isort: off
import orchestration.environment  # noqa: F401  (must come before anything that imports ray)
import ray

# isort: on
from dfml.data.__main__ import main
from dfml.data.packing import Job, Packed
from dfml.errors import InvalidInput
from orchestration.cluster.connection import cluster

AHEAD = 2  # jobs a core that are handed out at a time: enough that none idles, few enough that little is held in Ray's store


def over_cluster(pack_one: Callable[[Job], Packed], jobs: Sequence[Job]) -> Generator[tuple[Job, Packed], None, None]:
    """A `Runner` for `dfml.data.packing`: a Ray task a shard; those of a lost node are done again elsewhere.

    Raises:
        InvalidInput: a task's process is killed each time.
        Exception: what a task raised, as it raised it there.
    """
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
            try:
                packed = ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # Ray's own has the worker's whole traceback for a text
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise InvalidInput(f"a task was lost again and again ({reason}): run the same command again") from error
            yield pending.pop(ended), packed


def _call(pack_one: Callable[[Job], Packed], job: Job) -> Packed:
    return pack_one(job)


if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]], over_cluster))
