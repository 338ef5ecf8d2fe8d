"""`orchestration.cluster.pack` over a real Ray cluster makes the files of `dfml.data pack`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray_head import Head, environment_of, ray_folder

from dfml.data.format.manifest import FILE_NAME
from dfml.data.packing.journal import FILES, JOURNAL
from tests import forked
from tests.packed import files_below, slow_images

pytestmark = [pytest.mark.integration, pytest.mark.clusters]

PATIENCE = 60  # seconds
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def command(module: list[str], root: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", *module, "--root", str(root), "--out", str(out), "--shard-size", "1"]


def start(root: Path, out: Path, environment: dict[str, str]) -> forked.Popen:
    """Start the command in its own process group."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return forked.Popen(command(["orchestration.cluster.pack"], root, out), env=environment, **pipes)


@pytest.fixture
def alone() -> Iterator[dict[str, str]]:
    """Yield the environment of a command that finds no cluster and starts its own."""
    with ray_folder() as folder:
        yield environment_of(folder) | forked.workers()


def journals(out: Path) -> list[str]:
    return [file.name.removesuffix(".json") for file in (out / JOURNAL).glob("*.json") if file.name != FILES]


def assert_all_end(family: list[psutil.Process]) -> None:
    """Check that all processes of a command end by themselves within seconds.

    Ray's agents take a minute to end, so they are killed.
    """
    end = time.monotonic() + PATIENCE
    while running := [process for process in family if name_of(process) not in ("", *AGENTS)]:
        assert time.monotonic() < end, running
        time.sleep(0.1)
    for process in family:
        if name_of(process) in AGENTS:
            process.kill()


def name_of(process: psutil.Process) -> str:
    """Return the name of a process, empty if it has ended."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline()[:1]) or process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = slow_images(tmp_path_factory.mktemp("slow") / "photos", classes=6, images=40)
    (root / "class 3" / "7.png").write_text("no image")
    return root


@pytest.fixture
def killed(root: Path, tmp_path: Path, alone: dict[str, str]) -> Path:
    """Kill the command midway, wait until all its processes have ended, and return its output."""
    out = tmp_path / "out"
    process = start(root, out, alone)
    try:
        end = time.monotonic() + PATIENCE
        while len(journals(out)) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 3  # raylet, GCS, workers, …
    finally:
        process.kill()
        process.communicate()
    assert_all_end(family)
    return out


def test_killed_and_started_again_the_cluster_packs_what_one_machine_packs(
    killed: Path, root: Path, head: Head
) -> None:
    assert not (killed / FILE_NAME).exists()
    finished = journals(killed)
    assert 3 <= len(finished) < 240
    before = {name: (killed / name).stat().st_mtime_ns for name in finished}

    # Without --skip-bad the error is one sentence, as without a cluster.
    process = start(root, killed, head.named)
    printed, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed) == (2, "")
    assert said.splitlines()[0].startswith("packing 240 images (")
    assert said.splitlines()[1].startswith(f"the Ray cluster at {head.address}")
    # A slow machine also prints lines of progress.
    (sentence,) = (line for line in said.splitlines()[2:] if not line.startswith("packing: "))
    assert sentence.startswith("error: class 3/7.png can't be decoded (not an image of a known format); fix")
    assert not (killed / FILE_NAME).exists()

    (root / "class 3" / "7.png").write_bytes((root / "class 3" / "8.png").read_bytes())
    process = start(root, killed, head.named)
    printed, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert printed.splitlines()[:2] == ["train: 120 images of 3 classes", "test: 120 images of 3 classes"]
    assert {name: (killed / name).stat().st_mtime_ns for name in finished} == before
    out = killed.parent / "one machine"
    forked.run(command(["dfml.data", "pack"], root, out), check=True, capture_output=True)
    assert files_below(killed) == files_below(out)


def test_ctrl_c_is_one_line_and_leaves_no_process(root: Path, tmp_path: Path, alone: dict[str, str]) -> None:
    process = start(root, tmp_path / "out", alone)
    try:
        end = time.monotonic() + PATIENCE
        while len(journals(tmp_path / "out")) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, printed) == (130, "")
    assert said.splitlines()[1].startswith("a Ray cluster on this machine")
    # A slow machine also prints lines of progress.
    lines = [line for line in said.splitlines()[2:] if not line.startswith("packing: ")]
    assert lines == ["stopped; run the same command again to resume"]
    assert_all_end(family)
