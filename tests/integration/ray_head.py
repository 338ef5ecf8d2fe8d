"""A separate Ray cluster for a test, with its own ports and folder; nothing outlives the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
PATIENCE = 90  # seconds
# Settings of Ray for a machine that runs other tests at the same time. A niceness of 15 (Ray's
# default) would make Ray's other processes wait for its workers. Prestarted workers would be
# useless, because a sweep's workers have a separate environment.
SETTINGS = {"RAY_worker_niceness": "5", "RAY_prestart_worker_first_driver": "0"}


@dataclass
class Head:
    """The head of a cluster.

    Attributes:
        address: the host and port of its GCS.
        dashboard: the URL of its dashboard.
        folder: the cluster's RAY_TMPDIR.
        environment: the environment of commands that find the cluster by themselves.
        process: the ID of the process of `ray start`, the parent of the others.
    """

    address: str
    dashboard: str
    folder: Path
    environment: dict[str, str]
    process: int

    @property
    def named(self) -> dict[str, str]:
        """Return the environment of a command for which RAY_ADDRESS names this cluster."""
        return {**self.environment, "RAY_ADDRESS": self.address}


def environment_of(folder: Path) -> dict[str, str]:
    """Return this process's environment with another folder for Ray and no named cluster."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | SETTINGS | {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


@contextmanager
def ray_folder() -> Iterator[Path]:
    """Make a folder with a short path: that of a Unix socket may have at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="dfml-"))
    try:
        yield folder
    finally:
        # Ray's last processes may still write.
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_start(
    folder: Path, port: int, *flags: str, wrapped: list[str] | None = None, **environment: str
) -> Iterator[Head]:
    """Run `ray start --head` with `flags`, behind the prefix `wrapped`; kill its process tree."""
    dashboard = free_port()
    ports = [f"--port={port}", f"--dashboard-port={dashboard}"]
    ports += [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
    command = [*(wrapped or []), RAY, "start", "--head", "--block", *ports, "--disable-usage-stats", *flags]
    log = folder / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment_of(folder) | environment,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "will now block forever" in log.read_text() or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        address = (folder / "ray" / "ray_current_cluster").read_text()
        yield Head(address, f"http://127.0.0.1:{dashboard}", folder, environment_of(folder), process.pid)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kill a process and all processes that it started."""
    if process.poll() is None:
        for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def wait_for(true, otherwise=lambda: "", patience: float = PATIENCE) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.2)
