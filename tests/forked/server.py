"""Server that forks one process per request: `python -m tests.forked.server FOLDER OWNER`.

FOLDER gets the socket; OWNER is the ID of the process with which the server ends.

Commands are forked from this server, which has imported torch and timm. Sweeps and Ray's workers
are forked from helpers, which are forked from the server and have imported Ray. There is one helper
per environment, because Ray's compiled part reads the environment when it is imported.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    "dfml.train.__main__",
    "dfml.evaluate.__main__",
    "dfml.evaluate.flops",
    "dfml.data.__main__",
    "dfml.embed.__main__",
    "dfml.metrics.clustering",
    "faiss",
    "sklearn.metrics",
    "matplotlib.pyplot",
    "optuna",
    "pandas",
    "pyarrow.fs",
    "pyarrow.parquet",
    "aiohttp",
    "requests",
    "jsonschema",
    "pydantic",
    # W&B imports it when a run begins.
    "wandb.sdk.launch",
    "rich.live",
)
PRELOADED_WITH_RAY = ("orchestration.sweep", "ray.train.torch")
# Maximum number of helpers: three concurrent jobs, each with a driver's and its workers' helper.
HELPERS = 6
# Maximum bytes of a request, with arguments and environment.
LARGEST = 2**20


class Forks:
    """Forked processes: each is killed when its client ends, and its exit code goes to the client.

    Args:
        folder: the folder that gets a file for each process with a stand-in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Connections to the clients, by process ID.
        self._running: dict[int, socket.socket] = {}
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def __len__(self) -> int:
        return len(self._running)

    def start(self, content: bytes, fds: list[int], connection: socket.socket) -> None:
        request = json.loads(content)
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            os.setsid()
            with contextlib.suppress(OSError):
                connection.send(str(os.getpid()).encode())
            _become(request, fds)
        if "stands_for" in request:
            (self._folder / str(pid)).write_text(str(request["stands_for"]))
        self._running[pid] = connection

    def wait(self, *sources: Any, seconds: float | None = None) -> list[Any]:
        """Wait until a source can be read, or for `seconds`, and handle the ends of processes."""
        waiting = {connection: pid for pid, connection in self._running.items()}
        ready = select.select([self._woken, *sources, *waiting], [], [], seconds)[0]
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        # A client sends nothing more, so a readable connection means that the client has ended.
        for connection in waiting.keys() & set(ready):
            with contextlib.suppress(ProcessLookupError):
                os.kill(waiting[connection], signal.SIGKILL)
            self._running[waiting[connection]] = socket.socket()
            connection.close()
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                (self._folder / str(pid)).unlink(missing_ok=True)
                with self._running.pop(pid) as connection, contextlib.suppress(OSError):
                    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        return [source for source in sources if source in ready]

    def kill(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)


def serve(folder: Path, listener: socket.socket, owner: int) -> None:
    """Answer clients until the process `owner` has ended."""
    forks = Forks(folder)
    # Inboxes of the helpers, by the environment in which they have imported Ray.
    helpers: dict[str, socket.socket] = {}
    gone = os.pidfd_open(owner)
    while True:
        ready = forks.wait(gone, listener)
        if gone in ready:
            forks.kill()
            return
        if listener in ready:
            connection = listener.accept()[0]
            content, fds, _, _ = socket.recv_fds(connection, LARGEST, 3)
            request = json.loads(content) if len(fds) == 3 else None
            if request and _uses_ray(request["command"]):
                helper = _helper(request["environment"], helpers, folder)
                socket.send_fds(helper, [content], [*fds, connection.fileno()])
                connection.close()
            elif request:
                forks.start(content, fds, connection)
            for fd in fds:
                os.close(fd)


def _uses_ray(words: list[str]) -> bool:
    return Path(words[0]).name in ("setup_worker.py", "run_sweep.py")


def _helper(environment: dict[str, str], helpers: dict[str, socket.socket], folder: Path) -> socket.socket:
    """Return the inbox of the helper for an environment; start the helper if there is none."""
    key = json.dumps(environment, sort_keys=True)
    if key not in helpers:
        while len(helpers) >= HELPERS:
            helpers.pop(next(iter(helpers))).close()
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            _help(environment, its, folder)
        its.close()
        helpers[key] = mine
    # Move it to the end, so that it is closed last.
    helpers[key] = helpers.pop(key)
    return helpers[key]


def _help(environment: dict[str, str], inbox: socket.socket, folder: Path) -> NoReturn:
    """Import Ray, then fork sweeps and workers until the inbox is closed and all have ended."""
    server = os.getppid()
    signal.set_wakeup_fd(-1)
    # The output of the first request is among them; an open copy would keep its reader waiting.
    os.closerange(3, inbox.fileno())
    os.closerange(inbox.fileno() + 1, 4096)
    os.environ.clear()
    os.environ.update(environment)
    _import_ray()
    gc.freeze()
    forks = Forks(folder)
    asked = True
    while asked or forks:
        if forks.wait(*([inbox] if asked else []), seconds=None if asked else 1):
            content, fds, _, _ = socket.recv_fds(inbox, LARGEST, 4)
            asked = bool(content)
            if asked:
                forks.start(content, fds[:3], socket.socket(fileno=fds[3]))
                for fd in fds[:3]:
                    os.close(fd)
        if not asked and os.getppid() != server:
            forks.kill()
            break
    os._exit(0)


def _import_ray() -> None:
    """Import Ray without using its random generator.

    Otherwise all forks would draw the same numbers, but the IDs of their tasks must differ.
    """
    importlib.import_module("orchestration.cluster.environment")
    import ray.actor
    from ray._raylet import ActorClassID

    class Other:
        @staticmethod
        def from_random() -> ActorClassID:
            return ActorClassID(os.urandom(ActorClassID.size()))

    ray.actor.ActorClassID = Other
    for module in PRELOADED_WITH_RAY:
        importlib.import_module(module)
    ray.actor.ActorClassID = ActorClassID
    # A driver must import it itself, because the import sets the driver's environment.
    del sys.modules["orchestration.cluster.environment"]


def _become(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Turn this process into that of a command, and end as the command does."""
    # Copies are never 0, 1 or 2.
    moved = [os.dup(fd) for fd in fds]
    for number, fd in enumerate(moved):
        os.dup2(fd, number)
    os.closerange(3, 4096)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = os.fdopen(
            number, "w" if number else "r", encoding="utf-8", closefd=False, buffering=1 if number == 2 else -1
        )
        setattr(sys, name, stream)
    _forget()
    code = _execute(request["command"])
    # Wait for other threads, as Python does.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _forget() -> None:
    """Reset the state that forks must not share: random seeds, torch's threads, W&B's folders."""
    import numpy as np
    import torch
    from wandb.sdk.artifacts.artifact import Artifact
    from wandb.sdk.data_types._private import MEDIA_TMP

    for temporary in (MEDIA_TMP, Artifact._TMP_DIR):
        # Otherwise the first fork that ends would delete the folder that all share.
        temporary._finalizer.detach()  # type: ignore[attr-defined]
        temporary.__init__()  # type: ignore[misc]
    random.seed()
    np.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _execute(words: list[str]) -> int:
    """Do what Python does with these arguments, and return the exit code."""
    if words[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        words = words[1:]
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], os.getcwd()
            # Otherwise runpy warns that it is already imported.
            sys.modules.pop(f"{words[1]}.__main__", None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *words[2:]], os.getcwd()
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        elif Path(words[0]).name == "setup_worker.py":
            _work_for_ray(words[1:])
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _work_for_ray(words: list[str]) -> None:
    """Do what Ray's setup_worker.py does: set the environment, then run default_worker.py."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    given, rest = parser.parse_known_args(words)
    for name, value in json.loads(given.serialized_runtime_env_context).get("env_vars", {}).items():
        os.environ[name] = os.path.expandvars(value)
    sys.argv = rest
    runpy.run_path(rest[0], run_name="__main__")


def main(folder: Path, owner: int) -> None:
    gc.disable()
    for module in PRELOADED:
        importlib.import_module(module)
    gc.enable()
    # Otherwise a fork's garbage collection would touch, and so copy, all imported objects.
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / "partial"))
    listener.listen(64)
    (folder / "partial").rename(folder / "socket")
    serve(folder, listener, owner)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
