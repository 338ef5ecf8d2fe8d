"""Trials that can't succeed end at once with the reason and aren't retried; the sweep continues."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml
from nodes import Console
from ray_head import Head
from small_sweep import Sweep
from train_workers import train_workers

from dfml.data.datasets import REPOSITORY

pytestmark = pytest.mark.integration

# Numbers of the trials.
GOOD, DIVERGING, LARGE = range(3)
# Bytes that a capped worker may still allocate.
ROOM = 4 * 2**20


@pytest.fixture(scope="module")
def ended(head: Head, few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """Run a sweep of a good trial, a trial that diverges, and a trial that is out of memory."""
    root = tmp_path_factory.mktemp("failing")
    space = yaml.safe_load((REPOSITORY / "search_spaces" / "emoji.yaml").read_text())
    # The weights are so large that the memory of training them counts; images can be small.
    space["recipe"] |= {"warm_epochs": 1, "weights": "random", "image_size": 32, "test_size": 32, "batch_size": 16}
    space["search"] = {"lr": {"choice": [1e-4, 1e25, 2e-4]}}
    space["first"] = [{"lr": lr} for lr in space["search"]["lr"]["choice"]]
    (root / "space.yaml").write_text(yaml.safe_dump(space))
    arguments = f"--data {few_emoji} --search-space {root}/space.yaml --storage {root} --name sweep --trials 3 --seed 5"
    sweep = Sweep(arguments.split(), root, "sweep")
    # In a wide console, each cell of a table is one line.
    console = Console(sweep.start({**head.named, "COLUMNS": "300"}))
    # From the second epoch on the whole backbone trains, which needs more memory.
    console.wait_for(f"trial {LARGE}  epoch 1/3")
    cap_memory(head)
    printed = console.end()
    assert console.process.returncode == 0, printed
    return sweep, printed


def cap_memory(head: Head) -> None:
    """Limit the running trial's workers to a little more address space than they have."""
    workers = train_workers(head.process)
    assert len(workers) == 2
    for worker in workers:
        size = worker.memory_info().vms + ROOM
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (size, size))


def record(sweep: Sweep, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep.folder / "trials" / f"{number:03d}" / "record.json").read_text())
    return found


def test_a_loss_that_is_no_number_ends_its_trial_at_once(ended: tuple[Sweep, str]) -> None:
    found = record(ended[0], DIVERGING)
    assert found["state"] == "failed"
    assert "the loss is nan" in found["reason"]
    assert "1e+25" in found["reason"]
    assert found["restarts"] == 0
    assert found["unfit"]


def test_out_of_memory_ends_its_trial_at_once(ended: tuple[Sweep, str]) -> None:
    found = record(ended[0], LARGE)
    assert found["state"] == "failed"
    assert "out of memory on the host" in found["reason"]
    assert "batch_size" in found["reason"]
    assert found["restarts"] == 0
    assert found["unfit"]


def test_the_sweep_goes_on_and_its_table_says_which_failed_and_why(ended: tuple[Sweep, str]) -> None:
    sweep, printed = ended
    assert record(sweep, GOOD)["state"] == "finished"
    assert (sweep.folder / "best" / "model.safetensors").is_file()
    # The last column is folded; memory may run out in torch or in oneDNN, which names no cause.
    table = printed.split("Trials (")[1].split("└")[0]
    ended_by = " ".join(line.split("│")[-2].strip() for line in table.splitlines() if line.count("│") > 2)
    assert "failed: the loss is nan" in ended_by
    assert re.search(r"failed: (probably )?out of memory on the host", ended_by), ended_by
    results = json.loads((sweep.folder / "report" / "results.json").read_text())
    assert results["winner"] == GOOD
    page = (sweep.folder / "report" / "index.html").read_text()
    assert "out of memory on the host" in page
