"""The lease on a sweep's folder: one driver at a time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfml.errors import InvalidInput
from orchestration.sweep_folder import layout, lease
from orchestration.sweep_folder.lease import LEASE_EXPIRY_SECONDS, Lease, hold

HOLDER = """
import sys, time
from orchestration.sweep_folder.lease import hold
with hold(sys.argv[1], print):
    print("held", flush=True)
    time.sleep(60)
"""


def left(sweep: Path, host: str, age: float, process: int = 1) -> None:
    """Write the lease that another driver has left."""
    sweep.mkdir(exist_ok=True)
    found = Lease(owner="other", host=host, process=process, beat=time.time() - age)
    (sweep / "lease.json").write_text(found.model_dump_json())


def free(sweep: Path) -> bool:
    try:
        with hold(str(sweep), print):
            return True
    except InvalidInput:
        return False


def test_another_process_is_refused_while_it_is_held_and_not_after_a_kill(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(sweep)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InvalidInput, match=f"process {holder.pid} on {socket.gethostname()} is running the sweep"):
        hold(str(sweep), print).__enter__()
    assert holder.poll() is None
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # its exit code hasn't been read yet
    assert free(sweep)
    holder.wait()
    holder.stdout.close()


def test_nothing_stays_where_nothing_came_of_it(tmp_path: Path) -> None:
    assert free(tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_driver_on_another_machine_is_believed_for_a_minute(tmp_path: Path) -> None:
    left(tmp_path, "elsewhere", age=LEASE_EXPIRY_SECONDS / 2)
    assert not free(tmp_path)
    left(tmp_path, "elsewhere", age=LEASE_EXPIRY_SECONDS + 1)
    assert free(tmp_path)


def test_the_sign_of_life_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    with hold(str(tmp_path), print):
        first = json.loads((tmp_path / "lease.json").read_text())
        time.sleep(0.5)
        second = json.loads((tmp_path / "lease.json").read_text())
    assert first["owner"] == second["owner"]
    assert second["beat"] > first["beat"]


def test_a_damaged_lease_is_no_ones_and_ends_no_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    file = tmp_path / layout.LEASE
    file.write_text("{")
    with hold(str(tmp_path), print):
        for damage in ("", '{"owner": 1}'):
            file.write_text(damage)
            until = time.monotonic() + 10
            while file.read_text() == damage:
                assert time.monotonic() < until, "the heartbeat has ended"
                time.sleep(0.01)


def test_where_two_have_it_the_first_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    said: list[str] = []

    def disturbed() -> None:
        with hold(str(tmp_path), said.append):
            for _ in range(100):  # one of our own beats may have been under way
                left(tmp_path, "elsewhere", age=0)
                time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        disturbed()
    assert said == ["process 1 on elsewhere has taken over this sweep; stopping"]
    assert not free(tmp_path)
