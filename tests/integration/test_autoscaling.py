"""A cluster without workers grows for a sweep and shrinks afterwards.

It has Ray's own autoscaler with the fake provider, whose nodes are real raylets on this machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import validate_config
from ray_head import Head, end, free_port, ray_folder, ray_start, wait_for
from small_sweep import Sweep, sweep_of

from dfml.data.datasets import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.clusters]

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
# The fake provider's ID of the head.
HEAD_NODE = "f" * 51 + "00000"
# Maximum number of worker nodes.
MOST = 2
# Prints the number of live nodes whenever it changes.
COUNT_NODES = """
import sys, time
from ray._raylet import GcsClient
gcs, last = GcsClient(address=sys.argv[1]), 0
while True:
    now = sum(node.state == 0 for node in gcs.get_all_node_info(timeout=10).values())
    if now != last:
        print(now, flush=True)
    last = now
    time.sleep(0.2)
"""


def autoscaling(address: str) -> dict[str, object]:
    """Return the configuration of 0 to 2 nodes of one core; idle nodes are removed after 6 s."""
    config = {
        "cluster_name": "fake",
        "max_workers": MOST,
        "upscaling_speed": 10,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "use_node_id_as_ip": True,
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "one-core": {
                "resources": {"CPU": 1, "object_store_memory": 10**8},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MOST,
            },
        },
        "file_mounts": {},
    }
    commands = ["setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization"]
    config |= {f"{name}_commands": [] for name in commands} | {"cluster_synced_files": []}
    validate_config(config)
    return config


def without_our_code() -> list[str]:
    """Return a prefix that hides `dfml` and `orchestration` from a command, as on bare nodes."""
    hide = " && ".join(f"mount -t tmpfs none '{REPOSITORY / package}'" for package in ("dfml", "orchestration"))
    return ["unshare", "--mount", "--", "bash", "-c", f'{hide} && cd / && exec "$0" "$@"']


@pytest.fixture(scope="module")
def growing() -> Iterator[Head]:
    import ray

    with ray_folder() as folder:
        port = free_port()
        config = folder / "autoscaling.yaml"
        config.write_text(yaml.safe_dump(autoscaling(f"{ray.util.get_node_ip_address()}:{port}")))
        if subprocess.run([*without_our_code(), "true"], capture_output=True).returncode:
            pytest.skip("this user may not mount: the nodes would see this code even if it isn't sent to them")
        with ray_start(
            folder,
            port,
            "--num-cpus=0",
            f"--autoscaling-config={config}",
            wrapped=without_our_code(),
            RAY_FAKE_CLUSTER="1",
            RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_NODE,
        ) as head:
            yield head


def tiny(data: Path, storage: Path, *flags: str) -> Sweep:
    sweep = sweep_of(data, storage, "grown", trials=1)
    return Sweep([*sweep.arguments, "--max-epochs", "2", *flags], storage, "grown")


def run(sweep: Sweep, head: Head) -> subprocess.CompletedProcess[str]:
    return subprocess.run(sweep.command, capture_output=True, text=True, timeout=600, env=head.environment)


def test_what_even_the_grown_cluster_cannot_place_is_refused(growing: Head, few_emoji: Path, tmp_path: Path) -> None:
    done = run(tiny(few_emoji, tmp_path, "--workers-per-trial", "3"), growing)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "can grow to 2 CPU cores on 3 nodes (now 1)" in done.stderr
    assert not (tmp_path / "grown").exists()


def test_a_cluster_without_a_worker_grows_for_a_sweep_and_shrinks_back(
    growing: Head, few_emoji: Path, tmp_path: Path
) -> None:
    counts = tmp_path / "counts"
    with counts.open("w") as output:
        counter = subprocess.Popen(
            [sys.executable, "-c", COUNT_NODES, growing.address], stdout=output, env=growing.environment
        )
    try:
        wait_for(lambda: seen(counts) == [1])
        done = run(tiny(few_emoji, tmp_path), growing)
        assert done.returncode == 0, done.stdout + done.stderr
        began = time.monotonic()
        wait_for(lambda: seen(counts)[-1] == 1, counts.read_text)
        assert time.monotonic() - began < 90
    finally:
        end(counter)
    assert 1 + MOST in seen(counts)
    said = done.stdout
    assert f"the Ray cluster at {growing.address} (1 node, 0 CPU cores; its autoscaler runs up to 2 × one-core" in said
    # The code was sent to the workers, which can't see it otherwise.
    assert (tmp_path / "grown" / "best" / "model.safetensors").is_file()


def seen(counts: Path) -> list[int]:
    return [int(line) for line in counts.read_text().split()]
