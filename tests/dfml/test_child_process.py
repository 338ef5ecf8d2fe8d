"""A child process and the end of its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forked

KILLED = """
import multiprocessing, os, time
from dfml.child_process import end_with

def child(parent):
    end_with(parent)
    print(os.getpid(), flush=True)
    time.sleep(60)

multiprocessing.get_context("fork").Process(target=child, args=(os.getpid(),)).start()
time.sleep(60)
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")
def test_a_child_ends_at_once_with_a_process_that_is_killed() -> None:
    """The watchdog of torch takes up to five seconds, during which the GPU stays occupied."""
    worker = forked.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    loader = Path(f"/proc/{int(worker.stdout.readline())}/stat")
    assert loader.exists()
    worker.kill()
    worker.wait()
    until = time.monotonic() + 3
    while _runs(loader):
        assert time.monotonic() < until, "it outlived the process that it works for"
        time.sleep(0.05)


def _runs(stat: Path) -> bool:
    """Return whether a process runs, by its file in /proc; a zombie doesn't."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
