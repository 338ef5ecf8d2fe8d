"""Client of the server: its interface is that of subprocess."""

from __future__ import annotations

import atexit
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
# Folder of the sitecustomize.py that Ray's workers run first.
INTERPRETER = Path(__file__).parent / "interpreter"
START_SECONDS = 120
# Environment variable: the folder of the server that all processes of a run of pytest share.
SHARED = "DFML_FORKS"


class Popen(subprocess.Popen[str]):
    """The equivalent of `subprocess.Popen` in text mode for a process that the server forks."""

    def __init__(self, command: list[str], **options: Any) -> None:
        assert command[0] == sys.executable, command
        options.pop("text", None)
        super().__init__(command, text=True, **options)

    def _execute_child(self, *given: Any) -> None:
        args, cwd, env = given[0], given[5], given[6]
        p2cread, _, _, c2pwrite, _, errwrite = pipes = given[10:16]
        request = {
            "command": [str(word) for word in args[1:]],
            "cwd": str(cwd or Path.cwd()),
            "environment": {str(name): str(value) for name, value in (os.environ if env is None else env).items()},
        }
        fds = [own if fd == -1 else fd for own, fd in enumerate((p2cread, c2pwrite, errwrite))]
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.connect(str(server() / "socket"))
        socket.send_fds(self._server, [json.dumps(request).encode()], fds)
        self.pid = int(self._server.recv(64))
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        self._learn(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        self._learn(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def _learn(self, timeout: float | None) -> None:
        """Receive the exit code from the server, if the process ends within the timeout."""
        if self.returncode is None and select.select([self._server], [], [], timeout)[0]:
            said = self._server.recv(64)
            self._server.close()
            # An empty message means that the server itself has ended.
            self.returncode = int(said) if said else -signal.SIGKILL


def run(
    command: list[str],
    *,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command like `subprocess.run` in text mode, in a forked process."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def share() -> None:
    """Share one server with the processes that this process starts; the server ends with it."""
    # The path of a socket must be short.
    os.environ[SHARED] = tempfile.mkdtemp(prefix="forked-", dir="/tmp")
    (Path(os.environ[SHARED]) / "owner").write_text(str(os.getpid()))
    atexit.register(shutil.rmtree, os.environ[SHARED], ignore_errors=True)


@functools.cache
def server() -> Path:
    """Return the folder of the server's socket; start the server if it isn't running."""
    if SHARED not in os.environ:
        share()
    folder = Path(os.environ[SHARED])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "socket").exists():
            _start(folder)
    return folder


def _start(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.forked.server", str(folder), (folder / "owner").read_text()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + START_SECONDS
    while not (folder / "socket").exists():
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < end
        time.sleep(0.02)


def workers() -> dict[str, str]:
    """Return the environment variables with which the workers of a Ray cluster are forked."""
    path = [str(INTERPRETER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"DFML_FORKED": str(server()), "PYTHONPATH": os.pathsep.join(path)}


def ancestors(process: psutil.Process) -> list[psutil.Process]:
    """Return a process's ancestors.

    A forked worker of Ray has a stand-in; its ancestors are the stand-in and the stand-in's
    ancestors.
    """
    stands_for = server() / str(process.pid)
    if stands_for.exists():
        one = psutil.Process(int(stands_for.read_text()))
        return [one, *one.parents()]
    return process.parents()
