"""The Ray cluster a sweep runs on: started on this machine, or the one RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from dfml.errors import InvalidInput
from orchestration.environment import SETTINGS


@dataclass(frozen=True)
class Share:
    """What a trial gets of a cluster.

    Attributes:
        workers: Train workers of a trial.
        cpus: CPU cores of each.
        gpu: whether each has a GPU.
        concurrent: trials that run at once.
    """

    workers: int
    cpus: int
    gpu: bool
    concurrent: int


@contextmanager
def cluster() -> Iterator[str]:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine and end it afterwards.

    Yields:
        One line that says which it is and how to watch it.
    """
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors of trials reach the console through our callbacks
    warnings.filterwarnings("ignore", module="ray")
    address = os.environ.get("RAY_ADDRESS")
    context = ray.init(
        address=address or "local",
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        runtime_env={
            "env_vars": {**SETTINGS, **_s3_server()}
        },  # workers of a cluster don't inherit this process's environment
    )
    where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
    dashboard = f"; dashboard at http://{context.dashboard_url}" if context.dashboard_url else ""
    try:
        yield where + dashboard
    finally:
        # A second Ctrl-C must not leave processes behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        ray.shutdown()


def _s3_server() -> dict[str, str]:
    """Which S3 server and region are meant. Credentials aren't passed on: the dashboard shows this environment, and a cluster's
    nodes have their own (an instance profile)."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    return {name: os.environ[name] for name in names if name in os.environ}


def share(workers: int) -> Share:
    """Divide the connected cluster among trials: a GPU a worker where there are any, else all cores for one trial.

    One trial at a time on CPUs: each sample of the search then knows all earlier results, and a seed decides all.

    Raises:
        InvalidInput: the cluster is too small for one trial.
    """
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    gpu = gpus > 0
    available, kind = (gpus, "GPUs") if gpu else (cpus, "CPU cores")
    if workers > available or workers > cpus:
        raise InvalidInput(
            f"--workers-per-trial {workers} is more than the cluster can place: it has {available} {kind}, one for each worker; "
            f"give at most {min(available, cpus)} or a larger cluster"
        )
    concurrent = gpus // workers if gpu else 1
    return Share(workers=workers, cpus=max(1, cpus // (workers * concurrent)), gpu=gpu, concurrent=concurrent)
