"""A real `ray up cluster.local.yaml` over a real SSH server, a sweep on its cluster, `ray down`."""

from __future__ import annotations

import getpass
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from own_machine import Machine, machine, missing
from ray_head import Head, free_port, ray_folder, ray_start

from dfml.data.datasets import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.clusters, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def own() -> Iterator[Machine]:
    with ray_folder() as folder, machine(folder) as own:
        # Installing the environment again would take minutes.
        (own.home / "dfml").mkdir()
        (own.home / "dfml" / ".venv").symlink_to(sys.prefix)
        yield own


@pytest.fixture(scope="module")
def bystander() -> Iterator[Head]:
    """Start another Ray on the same computer, which `ray stop` would end if it could see it."""
    with ray_folder() as folder, ray_start(folder, free_port(), "--num-cpus=1", "--include-dashboard=false") as head:
        yield head


def adapted(own: Machine, folder: Path) -> Path:
    """Write cluster.local.yaml with the addresses and the key that a user would fill in."""
    config = yaml.safe_load((REPOSITORY / "cluster.local.yaml").read_text())
    config["provider"] |= {"head_ip": own.address, "worker_ips": []}
    config["auth"] |= {"ssh_user": getpass.getuser(), "ssh_private_key": str(own.key)}
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def succeed(own: Machine, command: str) -> str:
    done = own.run(*shlex.split(command))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ray_up_a_sweep_and_ray_down_on_a_machine_reached_over_ssh(
    own: Machine, bystander: Head, few_emoji: Path, tmp_path: Path
) -> None:
    file = adapted(own, tmp_path)
    succeed(own, "ray get-auth-token --generate")
    succeed(own, f"ray up --yes --no-config-cache {file}")
    assert "0.0/" in succeed(own, f"ray exec --no-config-cache {file} 'ray status'")

    arguments = f"--data {few_emoji} --storage {tmp_path} --name far --trials 1 --max-epochs 2"
    values = "--set batch_size=16 --set test_size=64"
    sweep = f"cd ~/dfml && python run_sweep.py {arguments} {values}"
    said = succeed(own, f"ray exec --no-config-cache {file} {shlex.quote(sweep)}")
    assert f"the Ray cluster at {own.address}:6379 (1 node, " in said
    config = json.loads((tmp_path / "far" / "best" / "config.json").read_text())
    assert config["test_evaluations"] == 1

    others = psutil.Process(bystander.process).children(recursive=True)
    assert succeed(own, "pgrep -c raylet").strip() == "1"
    succeed(own, f"ray down --yes {file}")
    assert own.run("pgrep", "raylet").returncode == 1
    assert {"raylet", "gcs_server"} <= {process.name() for process in others if process.is_running()}
