"""A Ray cluster of several nodes on this machine, with methods to break it.

Each node is a separate raylet; its workers are forked (`tests.forked`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psutil
from ray.cluster_utils import Cluster
from small_sweep import Sweep

from tests import forked

# Titles of Ray's processes: a worker, the process in which Tune calls our function, and the one in
# which a trial's workers wait for each other before they report.
WORKER_PROCESS = "RayTrainWorker"
TRIAL_PROCESS = "ImplicitFunc"
MEETING_PROCESS = "SynchronizationActor"
# Bytes of each node's object store.
STORE = 100 * 2**20
# No test here scales the cluster or reads Ray's logs.
WITHOUT = {"no_monitor": True, "include_log_monitor": False}
# By default Ray asks its nodes every 3 s and gives up a node after five missing answers; these
# settings shorten the 15 s for tests in which they don't matter.
SOON_LOST = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "4"}
LIST_GROUPS = (
    "import ray; ray.init(address='auto', log_to_driver=False, logging_level='CRITICAL'); "
    "from ray.util import placement_group_table; "
    "print('left:', [g['name'] for g in placement_group_table().values() if g['state'] != 'REMOVED'])"
)


class Console:
    """The output of a sweep, read while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed = ""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._grown:
                self.printed += line
                self._grown.notify_all()
        with self._grown:
            self._grown.notify_all()

    def wait_for(self, text: str, seconds: float = 240) -> None:
        with self._grown:
            found = self._grown.wait_for(lambda: text in self.printed or not self._reader.is_alive(), seconds)
        assert found, f"didn't print {text!r} in {seconds} s:\n{self.printed}"
        assert text in self.printed, f"ended without printing {text!r}:\n{self.printed}"

    def end(self, seconds: float = 400) -> str:
        self.process.wait(seconds)
        self._reader.join(10)
        return self.printed


def first_to_say(text: str, consoles: Sequence[Console], seconds: float = 240) -> Console:
    """Wait until one of several consoles has printed `text`, and return it."""
    end = time.monotonic() + seconds
    while not (said := [console for console in consoles if text in console.printed]):
        assert time.monotonic() < end, [console.printed for console in consoles]
        time.sleep(0.05)
    return said[0]


@contextmanager
def paused(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Suspend processes until the block ends."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


class Nodes:
    """A cluster of a head without cores and `count` nodes of one core each.

    Args:
        count: the number of nodes.
        settings: settings of Ray, by the names of their environment variables.
    """

    def __init__(self, count: int, settings: dict[str, str] | None = None) -> None:
        self._settings = {**forked.workers(), **(settings or {})}
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, **WITHOUT}
        with patch.dict(os.environ, self._settings):
            self.cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
        self.nodes = [self.add() for _ in range(count)]

    def add(self) -> Any:
        with patch.dict(os.environ, self._settings):
            return self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.cluster.address}

    def start(self, sweep: Sweep) -> subprocess.Popen[str]:
        """Start a sweep on this cluster."""
        return sweep.start(self.environment)

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of Ray actors on this cluster whose title contains `name`."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or [])
            if title.startswith("ray::") and name in title and self._is_ours(process):
                found.append(process)
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        raylets = {node.all_processes["raylet"][0].process.pid for node in self.cluster.list_all_nodes()}
        try:
            return any(parent.pid in raylets for parent in forked.ancestors(process))
        except psutil.NoSuchProcess:
            return False

    def node_of(self, process: psutil.Process) -> Any:
        """Return the node on which a process runs."""
        parents = {parent.pid for parent in forked.ancestors(process)}
        return next(node for node in self.nodes if node.all_processes["raylet"][0].process.pid in parents)

    def lose(self, node: Any) -> None:
        """Kill a node like a lost machine: its raylet and all processes on it."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def left_placement_groups(self) -> str:
        done = forked.run([sys.executable, "-c", LIST_GROUPS], env=self.environment, capture_output=True, check=True)
        return done.stdout.split("left:")[1].strip()

    def end(self) -> None:
        self.cluster.shutdown()


@contextmanager
def cluster_of(count: int, settings: dict[str, str] | None = None) -> Iterator[Nodes]:
    nodes = Nodes(count, settings)
    try:
        yield nodes
    finally:
        nodes.end()
