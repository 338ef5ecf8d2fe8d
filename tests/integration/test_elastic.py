"""With --min-workers, a trial continues with fewer workers if there is no room for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nodes import WORKER_PROCESS, Console, cluster_of
from small_sweep import sweep_of

from orchestration.cli import plan_from
from orchestration.flags import parser
from orchestration.sweep_file import SweepFile

pytestmark = [pytest.mark.integration, pytest.mark.clusters]


def test_a_trial_that_lost_a_node_goes_on_with_fewer_workers(few_emoji: Path, tmp_path: Path) -> None:
    sweep = sweep_of(few_emoji, tmp_path, "sweep", trials=1)
    sweep.arguments += ["--min-workers", "1"]
    with cluster_of(2) as nodes:
        console = Console(nodes.start(sweep))
        console.wait_for("trial 0  epoch 1/3")
        nodes.lose(nodes.node_of(nodes.processes(WORKER_PROCESS)[0]))
        printed = console.end()
        assert console.process.returncode == 0, printed
        assert nodes.left_placement_groups() == "[]"
    assert "trial 0  runs with 1 of 2 workers" in printed
    record = json.loads((sweep.folder / "trials" / "000" / "record.json").read_text())
    assert (record["state"], record["restarts"], record["repeated_epochs"]) == ("finished", 1, 0)
    assert [metrics["epoch"] for metrics in record["epochs"]] == [1, 2, 3]


def test_a_sweep_that_was_begun_with_two_workers_goes_on_with_room_for_one(few_emoji: Path, tmp_path: Path) -> None:
    sweep = sweep_of(few_emoji, tmp_path, "sweep", trials=1).added("--max-epochs", "2")
    begun, folder = plan_from(parser().parse_args(sweep.arguments))
    SweepFile.of(begun.model_copy(update={"workers_per_trial": 2})).save(folder)
    with cluster_of(1) as nodes:
        said = sweep.run(environment=nodes.environment, code=2)
        assert "begun with 2 workers per trial" in said
        assert "add --min-workers 1 to continue with fewer" in said
        printed = sweep.added("--min-workers", "1").run(environment=nodes.environment)
    assert "trial 0  runs with 1 of 2 workers" in printed
    assert (sweep.folder / "best" / "model.safetensors").is_file()
