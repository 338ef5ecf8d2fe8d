"""The cluster that a sweep takes, and its messages while it waits for the cluster."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_head import RAY, Head, end, environment_of, free_port, ray_folder, wait_for

from dfml.data.datasets import REPOSITORY
from dfml.errors import InvalidInput
from orchestration.cluster.connection import find_cluster
from tests import forked

pytestmark = pytest.mark.integration

FIND = """
import orchestration.cluster.environment
from dfml.errors import InvalidInput
from orchestration.cluster.connection import find_cluster
from tests import forked
try:
    print(*find_cluster(), sep="")
except InvalidInput as error:
    print("refused:", error)
"""
# Takes the whole cluster for itself, and prints a message.
HOLD = """
import orchestration.cluster.environment, ray, time
from orchestration.cluster.connection import cluster
with cluster() as where:
    group = ray.util.placement_group([{"CPU": 1}] * 2)
    ray.get(group.ready())
    print(where, ray.get_runtime_context().gcs_address, sep="\\n", flush=True)
    time.sleep(600)
"""
WAIT = """
import orchestration.cluster.environment, ray, time
from orchestration.cluster.connection import cluster
from orchestration.cluster.resources import Demand, trial_resources
from orchestration.cluster.waiting import waiting_for
with cluster() as where:
    resources = trial_resources(Demand(trials=1, batch_size=48, workers=2))
    began = time.monotonic()
    print(waiting_for(resources), waiting_for(resources), time.monotonic() - began, sep="\\n")
"""
READ = """
import orchestration.cluster.environment
from dfml.errors import InvalidInput
from orchestration.cluster.connection import check_readable, cluster
with cluster() as where:
    check_readable("s3://nowhere/data")
    check_readable("/usr")
    try:
        check_readable("PLACE")
    except InvalidInput as error:
        print(error)
"""
JOB = """
import orchestration.cluster.environment, ray
from orchestration.cluster.connection import cluster
with cluster() as where:
    print(where)
    remote = ray.remote(num_cpus=1)(lambda: __import__("os").environ["OMP_NUM_THREADS_OF_JOB"])
    print("a worker has", ray.get(remote.remote()))
"""


def python(code: str, environment: dict[str, str], *dropped: str, **changed: str) -> str:
    environment = {name: value for name, value in environment.items() if name not in dropped} | changed
    done = forked.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file to which `ray start` writes the address of its cluster; none is running."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in {"RAY_TMPDIR": str(tmp_path), "RAY_AUTH_MODE": "token"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_without_a_running_cluster_a_sweep_starts_its_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_cluster() == ("local", "")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(InvalidInput, match="RAY_ADDRESS is 'auto', but no Ray cluster runs here"):
        find_cluster()


def test_an_address_that_a_dead_cluster_left_is_passed_over(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.write_text(address := f"127.0.0.1:{free_port()}")
    assert find_cluster() == ("local", f" (not the one at {address}: it doesn't answer within 5 s)")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InvalidInput, match=f"the cluster that RAY_ADDRESS names, {address}, doesn't answer"):
        find_cluster()


def test_a_server_that_is_no_cluster_is_passed_over_within_seconds(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        here.write_text(f"127.0.0.1:{mute.getsockname()[1]}")
        began = time.monotonic()
        assert find_cluster()[0] == "local"
        assert time.monotonic() - began < 15


def test_an_address_of_another_kind_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    with pytest.raises(InvalidInput, match="isn't the address of a cluster's GCS; give host:port"):
        find_cluster()


def test_a_running_cluster_is_found_unless_another_is_named(head: Head) -> None:
    assert python(FIND, head.environment) == head.address
    # The token is in the same home.
    assert python(FIND, head.environment, "RAY_AUTH_MODE") == head.address
    assert python(FIND, head.environment, RAY_ADDRESS="local") == "local"


def test_a_cluster_that_asks_for_a_token_is_not_entered_without_it(head: Head, tmp_path: Path) -> None:
    named = python(FIND, head.environment, "RAY_AUTH_MODE", RAY_ADDRESS=head.address)
    assert named.startswith(
        f"refused: the cluster that RAY_ADDRESS names, {head.address}, asks for a token: export RAY_AUTH_MODE"
    )
    found = python(FIND, head.environment, "RAY_AUTH_MODE", HOME=str(tmp_path))
    assert found.startswith(f"local (not the one at {head.address}: it asks for a token")


def test_the_cluster_of_another_sweep_is_left_to_it() -> None:
    with ray_folder() as folder, holding(environment_of(folder), folder) as said:
        where, address = said
        assert where.startswith("a Ray cluster on this machine (1 node, ")
        (folder / "ray" / "ray_current_cluster").write_text(address)
        other = python(FIND, environment_of(folder))
        assert other == f"local (not the one at {address}: it belongs to another sweep and ends with it)"
        assert "belongs to another sweep" in python(FIND, environment_of(folder), RAY_ADDRESS=address)


def test_a_trial_that_cannot_be_placed_is_told_who_holds_the_cluster(head: Head, tmp_path: Path) -> None:
    with holding(head.environment, tmp_path) as (where, _):
        assert where.startswith(f"the Ray cluster at {head.address} (1 node, 2 CPU cores); dashboard at http://")
        first, second, seconds = python(WAIT, head.environment).splitlines()
    assert first == second
    assert first.startswith("a trial needs 2 worker(s) with 1 CPU core each")
    assert (
        "the cluster has 2 CPU cores on 1 node(s), of which 0 CPU cores are free; 2 CPU cores are held by job" in first
    )
    # The command that holds the cluster.
    assert sys.executable.rsplit("/", 1)[-1] in first
    assert first.endswith("no autoscaler adds nodes here")
    assert float(seconds) < 1
    assert python(WAIT, head.environment).splitlines()[0] == "None"


def test_a_folder_that_a_node_does_not_have_is_named_with_the_node(head: Head, tmp_path: Path) -> None:
    (tmp_path / "data" / "set").mkdir(parents=True)
    hide = ["unshare", "--mount", "--", "bash", "-c", f'mount -t tmpfs none "{tmp_path}/data" && exec "$0" "$@"']
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount: all nodes of this computer see the same folders")
    log = tmp_path / "node.log"
    with log.open("w") as output:
        node = subprocess.Popen(
            [*hide, RAY, "start", f"--address={head.address}", "--num-cpus=0", "--block"],
            env=head.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "will now block forever" in log.read_text() or node.poll() is not None, log.read_text)
        said = python(READ.replace("PLACE", f"{tmp_path}/data/set"), head.environment)
    finally:
        end(node)
    assert said.startswith(f"{tmp_path}/data/set doesn't exist on 1 of 2 nodes of the cluster (")


def test_a_submitted_job_takes_the_cluster_it_runs_on(head: Head, tmp_path: Path) -> None:
    """As on Kubernetes, Ray's job server names the cluster and has its own runtime environment."""
    (tmp_path / "job.py").write_text(JOB)
    ray = [RAY, "job", "submit", "--address", head.dashboard]
    environment = [
        "--runtime-env-json",
        f'{{"env_vars": {{"OMP_NUM_THREADS_OF_JOB": "3", "PYTHONPATH": "{REPOSITORY}"}}}}',
    ]
    done = subprocess.run(
        [*ray, *environment, "--", sys.executable, str(tmp_path / "job.py")],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the Ray cluster at {head.address} (" in done.stdout
    assert "a worker has 3" in done.stdout


class holding:
    """A process that holds the whole cluster that it found or started."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment, self._file = environment, folder / "said"

    def __enter__(self) -> tuple[str, str]:
        with self._file.open("w") as output:
            command = [sys.executable, "-c", HOLD]
            self._process = forked.Popen(command, cwd=REPOSITORY, env=self._environment, stdout=output)
        wait_for(lambda: self._file.read_text().count("\n") == 2 or self._process.poll() is not None)
        where, address = self._file.read_text().splitlines()
        return where, address

    def __exit__(self, *error: object) -> None:
        end(self._process)
