"""Forks a process for each request: `python -m tests.forked.server FOLDER`, where its socket is to be. Ends when its input does."""

from __future__ import annotations

import argparse
import atexit
import contextlib
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

# Ray itself isn't among them: its compiled part reads the environment, which tells a worker its job, when it is imported.
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
    "wandb",
    "rich.live",
)
LARGEST = 2**20  # bytes of a request: arguments and environment


def serve(folder: Path) -> None:
    """Fork until the test process has gone."""
    for module in PRELOADED:
        importlib.import_module(module)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / "partial"))
    listener.listen(64)
    (folder / "partial").rename(folder / "socket")
    running: dict[int, socket.socket] = {}  # who waits for a process
    while True:
        waiting = {connection: pid for pid, connection in running.items()}
        for ready in select.select([0, woken, listener, *waiting], [], [])[0]:
            if ready == 0:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif ready == woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
            elif ready is listener:
                _answer(listener.accept()[0], running, folder)
            elif ready.fileno() >= 0:  # it says no more: who waited has gone
                with contextlib.suppress(ProcessLookupError):
                    os.kill(waiting[ready], signal.SIGKILL)
                running[waiting[ready]] = socket.socket()
                ready.close()
        _tell_of_the_ended(running, folder)


def _answer(connection: socket.socket, running: dict[int, socket.socket], folder: Path) -> None:
    content, fds, _, _ = socket.recv_fds(connection, LARGEST, 3)
    if len(fds) < 3:
        connection.close()
        return
    request = json.loads(content)
    if (pid := os.fork()) == 0:
        signal.set_wakeup_fd(-1)
        os.setsid()
        with contextlib.suppress(OSError):
            connection.send(str(os.getpid()).encode())
        _become(request, fds)
    for fd in fds:
        os.close(fd)
    if "stands_for" in request:
        (folder / str(pid)).write_text(str(request["stands_for"]))
    running[pid] = connection


def _tell_of_the_ended(running: dict[int, socket.socket], folder: Path) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            (folder / str(pid)).unlink(missing_ok=True)
            with running.pop(pid) as connection, contextlib.suppress(OSError):
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Be the process of a command, and end as it does."""
    moved = [os.dup(fd) for fd in fds]  # none of them is 0, 1 or 2 then
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
    threading._shutdown()  # type: ignore[attr-defined]  # waits for other threads, as Python does
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _forget() -> None:
    """Have what a new process has of its own: randomness, torch's threads, W&B's temporary folders."""
    import numpy as np
    import torch
    from wandb.sdk.artifacts.artifact import Artifact
    from wandb.sdk.data_types._private import MEDIA_TMP

    for temporary in (MEDIA_TMP, Artifact._TMP_DIR):
        temporary._finalizer.detach()  # type: ignore[attr-defined]  # else the first to end deletes that of all
        temporary.__init__()  # type: ignore[misc]
    random.seed()
    np.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _execute(words: list[str]) -> int:
    """Do what Python does with these arguments; returns the exit code."""
    if words[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        words = words[1:]
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], os.getcwd()
            sys.modules.pop(f"{words[1]}.__main__", None)  # else runpy warns that it was imported already
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
    """Do as Ray's setup_worker.py, which sets the environment and then becomes a Python that runs default_worker.py."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    given, rest = parser.parse_known_args(words)
    for name, value in json.loads(given.serialized_runtime_env_context).get("env_vars", {}).items():
        os.environ[name] = os.path.expandvars(value)
    sys.argv = rest
    runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
