"""A Ray cluster of its own for a test: own ports, own temporary folder, and nothing of it outlives the test."""

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
# Of Ray, for a machine on which other tests run beside it: its workers let all other processes go first (15), but not so much that Ray's
# own wait for them; none is started before it is known for what, as a sweep's have an environment of their own.
SETTINGS = {"RAY_worker_niceness": "5", "RAY_prestart_worker_first_driver": "0"}


@dataclass
class Head:
    """A cluster's head.

    Attributes:
        address: host and port of its GCS.
        dashboard: its URL.
        folder: RAY_TMPDIR of the cluster.
        environment: of a command that is to find the cluster as its user's commands do.
        process: the number of `ray start`'s process, the parent of the others.
    """

    address: str
    dashboard: str
    folder: Path
    environment: dict[str, str]
    process: int

    @property
    def named(self) -> dict[str, str]:
        """The environment of a command that is told of this cluster."""
        return {**self.environment, "RAY_ADDRESS": self.address}


def environment_of(folder: Path) -> dict[str, str]:
    """This process's environment, but with another place for Ray's files and with no cluster named."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | SETTINGS | {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder whose path is short: that of a Unix socket may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="dfml-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # Ray's last processes may still write


@contextmanager
def ray_start(
    folder: Path, port: int, *flags: str, wrapped: list[str] | None = None, **environment: str
) -> Iterator[Head]:
    """`ray start --head` with `flags`, started by the command `wrapped`; ended with all that it started."""
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
    """Kill a process and all that it started."""
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
