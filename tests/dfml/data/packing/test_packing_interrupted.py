"""Packing that is killed, stopped by Ctrl-C or out of disk space, against an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dfml.data.format.manifest import FILE_NAME
from dfml.data.packing.journal import FILES, JOURNAL
from tests import forked
from tests.packed import files_below, slow_images

pytestmark = pytest.mark.integration

PATIENCE = 60  # seconds: a second is enough, but the machine may be busy
SHARD = "1"  # byte, so that each shard has one image


def command(root: Path, out: Path, *flags: str) -> list[str]:
    pack = [sys.executable, "-m", "dfml.data", "pack", "--root", str(root), "--out", str(out)]
    return [*pack, "--shard-size", SHARD, "--workers", "2", *flags]


def run(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return forked.run(command(root, out), capture_output=True, timeout=PATIENCE)


def wait_for(ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < end, "too late"
        time.sleep(0.005)


def journals(out: Path) -> list[Path]:
    return [file for file in (out / JOURNAL).glob("*.json") if file.name != FILES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_images(tmp_path_factory.mktemp("slow") / "photos")


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(root, out)
    assert done.returncode == 0, done.stderr
    files = files_below(out)
    assert len(files) > 20
    return files


@pytest.fixture
def packing(root: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, list[psutil.Process]]]:
    """Yield a running pack command, its output folder and its worker processes.

    It has a process group of its own, as in a terminal.
    """
    out = tmp_path / "out"
    process = forked.Popen(command(root, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: len(journals(out)) >= 3, process)
        yield process, out, psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.communicate()


def assert_goes_on(root: Path, out: Path, undisturbed: dict[str, bytes]) -> None:
    """Check that the same command keeps finished files and equals an undisturbed run."""
    assert not (out / FILE_NAME).exists()
    finished = [out / file.name.removesuffix(".json") for file in journals(out)]
    before = {file: file.stat().st_mtime_ns for file in finished}
    assert 3 <= len(before) < len(undisturbed) - 3
    done = run(root, out)
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in finished} == before
    assert files_below(out) == undisturbed
    assert not (out / JOURNAL).exists()


def test_after_a_kill_workers_end_and_the_same_command_goes_on(
    packing: tuple[subprocess.Popen[str], Path, list[psutil.Process]], root: Path, undisturbed: dict[str, bytes]
) -> None:
    process, out, workers = packing
    assert len(workers) == 2
    process.kill()
    process.wait()
    (out / "train-00007.parquet.12345.partial").write_bytes(b"what a process leaves that is killed as it writes")
    (out / JOURNAL / "train-00007.parquet.json.12345.partial").write_bytes(b"as well")
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
    assert_goes_on(root, out, undisturbed)


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
    packing: tuple[subprocess.Popen[str], Path, list[psutil.Process]], root: Path, undisturbed: dict[str, bytes]
) -> None:
    process, out, workers = packing
    os.killpg(process.pid, signal.SIGINT)
    printed, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed) == (130, "")
    assert said.splitlines()[1:] == ["stopped; run the same command again to resume"]
    assert said.startswith("packing 60 images (")
    assert not [worker for worker in workers if worker.is_running()]
    assert not list(out.rglob("*.partial"))
    assert_goes_on(root, out, undisturbed)


def test_a_worker_that_is_killed_is_one_sentence(
    packing: tuple[subprocess.Popen[str], Path, list[psutil.Process]], root: Path, undisturbed: dict[str, bytes]
) -> None:
    process, out, workers = packing
    workers[0].kill()  # as the system does when memory runs out
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said.splitlines()[1:] == [
        "error: one of the processes was killed, perhaps because memory ran out; run the same command again with fewer "
        "--workers"
    ]
    assert_goes_on(root, out, undisturbed)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a file system in memory with the given options."""
    uri = tmp_path / "mounted"

    def mount(options: str) -> Path:
        uri.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(uri)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
        return uri

    yield mount
    subprocess.run(["umount", str(uri)], capture_output=True)


def test_full_disk_is_one_sentence_and_the_same_command_goes_on_after_room_is_made(
    mounted: Callable[[str], Path], root: Path, undisturbed: dict[str, bytes]
) -> None:
    uri = mounted("size=200k")
    full = run(root, uri / "out")
    assert full.returncode == 1
    (said,) = full.stderr.splitlines()[1:]
    assert said == f"error: {uri / 'out'} is full; make room and run the same command again to resume"
    assert full.stdout == ""
    assert not list(uri.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(uri)], check=True)
    assert_goes_on(root, uri / "out", undisturbed)


def test_read_only_place_is_one_sentence(mounted: Callable[[str], Path], root: Path) -> None:
    uri = mounted("size=1m,ro")
    refused = run(root, uri / "out")
    assert (refused.returncode, refused.stdout) == (2, "")
    (said,) = refused.stderr.splitlines()
    assert said.startswith(f"error: storage {uri / 'out'} can't be written (")
    assert "Read-only file system" in said
