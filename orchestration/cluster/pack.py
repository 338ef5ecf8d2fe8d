"""`python -m orchestration.cluster.pack`: `python -m dfml.data pack` on all cores of a Ray cluster.

RAY_ADDRESS names the cluster; by default one is started on this machine. All nodes must have access
to --root (a shared folder) and --out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence

# isort: off
import orchestration.cluster.environment  # noqa: F401  (must come before anything that imports ray)
import ray

# isort: on
from dfml.data.__main__ import main
from dfml.data.packing.pack import Packed
from dfml.data.packing.shard_plan import Job
from dfml.errors import RunFailed, one_line
from orchestration.cluster.connection import cluster

AHEAD = 2  # jobs per core that are submitted: no core idles, and little memory is held in Ray's store


def map_on_cluster(pack_one: Callable[[Job], Packed], jobs: Sequence[Job]) -> Generator[tuple[Job, Packed], None, None]:
    """Run packing's jobs, one Ray task per shard; tasks of a lost node run again.

    Raises:
        InvalidInput: the process of a task was killed each time.
        Exception: the exception that a task raised.
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
                # The text of Ray's own error is the worker's whole traceback.
                raise error.cause from None
            except ray.exceptions.RayError as error:
                reason = one_line(error)
                raise RunFailed(f"a task was lost several times ({reason}); run the same command again") from error
            yield pending.pop(ended), packed


def _call(pack_one: Callable[[Job], Packed], job: Job) -> Packed:
    return pack_one(job)


if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]], map_on_cluster))
