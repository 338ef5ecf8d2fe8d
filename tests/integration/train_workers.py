"""Search for the processes in which a trial trains, by their titles."""

from __future__ import annotations

import contextlib

import psutil
from nodes import WORKER_PROCESS

from tests import forked


def train_workers(root: int) -> list[psutil.Process]:
    """Return the workers of the running trial on the Ray that process `root` started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if WORKER_PROCESS in " ".join(process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                if root in [parent.pid for parent in forked.ancestors(process)]:
                    found.append(process)
    return found
