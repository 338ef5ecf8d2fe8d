"""One sweep survives the loss of everything that can be lost.

These are a worker, a trial's process, the actor that synchronizes its workers, a node, the sweep's
driver, and the head with all its state. The sweep is stored on S3. Each loss happens in another
trial, after its first epoch, and has a test below.
"""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import optuna
import pytest
from nodes import MEETING_PROCESS, SOON_LOST, TRIAL_PROCESS, WORKER_PROCESS, Console, cluster_of
from optuna.storages.journal import JournalFileBackend
from small_sweep import Sweep, sweep_of

from dfml import storage
from orchestration.sweep_folder import layout
from orchestration.trials.checkpoints import whole_checkpoints
from tests.s3.servers import moto_server

pytestmark = [pytest.mark.integration, pytest.mark.clusters]

TRIALS = 6
# The trial in which each loss happens.
WORKER, TRIAL, MEETING, NODE, DRIVER, HEAD = range(TRIALS)
# Losses after which the same session continues.
RESTARTED = (WORKER, TRIAL, MEETING, NODE)
# Epochs take at least a second, so that a loss happens within the second epoch.
LONGER = ("--set", "image_size=64", "--set", "batch_size=8")


@pytest.fixture(scope="module")
def s3(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[str]:
    with moto_server() as server:
        for name, value in server.environment().items():
            monkeypatch_module.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="kills")
        yield "s3://kills"


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def survived(s3: str, few_emoji: Path) -> tuple[Sweep, list[str], str]:
    """Run the sweep in three sessions; return it, their output and the placement groups left."""
    sweep = sweep_of(few_emoji, s3, "sweep", trials=TRIALS).added(*LONGER)
    printed = []
    with cluster_of(3, SOON_LOST) as nodes:
        console = Console(nodes.start(sweep))
        console.wait_for(f"trial {WORKER}  epoch 1/3")
        nodes.processes(WORKER_PROCESS)[0].kill()
        console.wait_for(f"trial {TRIAL}  epoch 1/3")
        nodes.processes(TRIAL_PROCESS)[0].kill()
        console.wait_for(f"trial {MEETING}  epoch 1/3")
        nodes.processes(MEETING_PROCESS)[0].kill()
        console.wait_for(f"trial {NODE}  epoch 1/3")
        nodes.lose(nodes.node_of(nodes.processes(WORKER_PROCESS)[0]))
        console.wait_for(f"trial {DRIVER}  epoch 1/3")
        os.kill(console.process.pid, signal.SIGKILL)
        printed.append(console.end())
        console = Console(nodes.start(sweep))
        console.wait_for(f"trial {HEAD}  epoch 1/3")
        for node in [*nodes.nodes, nodes.cluster.head_node]:
            nodes.cluster.remove_node(node, allow_graceful=False)
        os.kill(console.process.pid, signal.SIGKILL)
        printed.append(console.end())
    with cluster_of(2) as nodes:
        console = Console(nodes.start(sweep))
        printed.append(console.end())
        assert console.process.returncode == 0, printed[-1]
        left = nodes.left_placement_groups()
        assert nodes.processes(WORKER_PROCESS) == []
        assert nodes.processes(TRIAL_PROCESS) == []
    return sweep, printed, left


def record(sweep: Sweep, number: int) -> dict[str, Any]:
    uri = storage.join(str(sweep.storage), sweep.name, "trials", f"{number:03d}", "record.json")
    found: dict[str, Any] = json.loads(storage.read(uri))
    return found


@pytest.mark.parametrize("number", range(TRIALS), ids=["worker", "trial", "meeting", "node", "driver", "head"])
def test_the_trial_ends_and_no_finished_epoch_is_computed_again(
    survived: tuple[Sweep, list[str], str], number: int
) -> None:
    found = record(survived[0], number)
    assert found["state"] in ("finished", "stopped")
    assert found["reason"] is None
    epochs = [metrics["epoch"] for metrics in found["epochs"]]
    assert epochs == list(range(1, len(epochs) + 1))
    # The loss happened within the second epoch.
    assert len(epochs) >= 2
    assert found["repeated_epochs"] <= 1
    assert found["restarts"] == (1 if number in RESTARTED else 0)


def test_the_console_says_what_was_lost(survived: tuple[Sweep, list[str], str]) -> None:
    first = survived[1][0]
    for number in RESTARTED:
        assert re.search(rf"trial {number}  resumes from its last checkpoint: \S", first), first


def test_what_had_ended_is_not_run_again(survived: tuple[Sweep, list[str], str]) -> None:
    _, second, third = survived[1]
    assert f"{DRIVER} of {TRIALS} trials have ended, trial {DRIVER} resumes from its last checkpoint" in second
    assert f"{HEAD} of {TRIALS} trials have ended, trial {HEAD} resumes from its last checkpoint" in third
    assert f"trial {DRIVER}  epoch 1/3" not in second
    assert f"trial {HEAD}  epoch 1/3" not in third


def test_optunas_history_is_whole(survived: tuple[Sweep, list[str], str], tmp_path: Path) -> None:
    sweep = survived[0]
    log = tmp_path / layout.STUDY
    log.write_bytes(storage.read(storage.join(str(sweep.storage), sweep.name, layout.STUDY)))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(JournalFileBackend(str(log))))
    assert [trial.number for trial in study.trials] == list(range(TRIALS))
    for trial in study.trials:
        found = record(sweep, trial.number)
        assert trial.state.is_finished()
        assert trial.params == found["parameters"]
        assert len(trial.intermediate_values) == len(found["epochs"])


def test_nothing_stays_behind(survived: tuple[Sweep, list[str], str]) -> None:
    sweep, _, groups = survived
    assert groups == "[]"
    assert list(Path(tempfile.gettempdir()).glob("dfml-worker-*")) == []
    keys = [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="kills")["Contents"]]
    for number in range(TRIALS):
        folder = f"{sweep.name}/trials/{number:03d}"
        kept = {key.split("/")[3] for key in keys if key.startswith(f"{folder}/checkpoint_20")}
        assert kept == whole_checkpoints(f"{sweep.storage}/{folder}")
        assert 1 <= len(kept) <= 2
        assert not [key for key in keys if key.startswith(f"{folder}/{layout.MID_EPOCH}")]
