"""Forked processes behave like new ones; workers of a Ray cluster are forked too.

The tests compare output, exit code, folder, environment and signals.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dfml.data.datasets import REPOSITORY
from tests import forked

pytestmark = pytest.mark.integration
ACTOR = """
import os, sys, ray
environment = {"env_vars": {"A": "b"}}
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
def facts(self):
    return [os.getpid(), os.environ["A"], "torch" in sys.modules, ray.UniqueID.from_random().hex()]
kind = ray.remote(num_cpus=1)(type("Actor", (), {"facts": facts}))
actor, other = kind.remote(), kind.remote()
print(*ray.get(actor.facts.remote()), *ray.get(other.facts.remote()), flush=True)
input()
"""


def test_a_forked_command_does_what_a_new_one_does(tmp_path: Path) -> None:
    code = (
        "import os, sys; print(os.getcwd(), os.environ.get('A'), sys.argv); print('said', file=sys.stderr); sys.exit(3)"
    )
    command = [sys.executable, "-c", code, "x"]
    options = {"cwd": tmp_path, "env": {"A": "b"}, "capture_output": True, "text": True}
    mine, other = forked.run(command, **options), subprocess.run(command, **options)
    assert (mine.returncode, mine.stdout, mine.stderr) == (other.returncode, other.stdout, other.stderr)
    assert mine.stdout == f"{tmp_path} b ['-c', 'x']\n"


@pytest.mark.parametrize(
    "code", ["raise ValueError('no')", "import sys; sys.exit('no')", "import os; os.abort()", "pass"]
)
def test_it_ends_as_a_new_one_does(code: str) -> None:
    command = [sys.executable, "-c", code]
    mine, other = (run(command, capture_output=True, text=True) for run in (forked.run, subprocess.run))
    assert mine.returncode == other.returncode
    assert mine.stderr.splitlines()[-1:] == other.stderr.splitlines()[-1:]


def test_it_gets_signals_and_input() -> None:
    process = forked.Popen([sys.executable, "-c", "input(); input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.poll() is None
    assert os.getpgid(process.pid) == process.pid
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    assert not psutil.pid_exists(process.pid)


def test_a_rays_workers_are_forked_and_end_with_what_stands_for_them() -> None:
    command = [sys.executable, "-c", ACTOR]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with forked.Popen(command, env={**os.environ, **forked.workers()}, **pipes) as driver:
        assert driver.stdout is not None
        pid, value, has_torch, random, *of_other = driver.stdout.readline().split()
        assert (value, has_torch) == ("b", "True")
        assert of_other[0] != pid
        assert of_other[-1] != random
        worker = psutil.Process(int(pid))
        parents = forked.ancestors(worker)
        assert parents[1].name() == "raylet"
        assert driver.pid in [parent.pid for parent in parents]
        parents[0].kill()
        end = time.monotonic() + 10
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.05)
        driver.communicate("\n")
    assert driver.returncode == 0


def test_what_a_sweep_says_ends_with_it() -> None:
    # The second is forked from the helper that the first has started.
    for _ in range(2):
        done = forked.run([sys.executable, str(REPOSITORY / "run_sweep.py"), "--help"], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: run_sweep.py")
