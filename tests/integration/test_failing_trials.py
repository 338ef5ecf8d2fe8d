"""Trials that fail: the ones that can't succeed end at once, and the sweep continues.

Memory that runs out is no such failure: the trial continues with more parts per batch, unless not
even one image fits.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from nodes import Console
from ray_head import Head
from small_sweep import Sweep
from train_workers import train_workers

from dfml.task import SCORE

pytestmark = pytest.mark.integration

# Numbers of the trials.
GOOD, DIVERGING, HELPED, LARGE = range(4)
# Images per batch, over two workers.
BATCH = 32
# Bytes that a worker lacks, compared to an undisturbed one. Two parts of a batch save about as
# many, four parts save 120 MB.
LACKING = 70 * 2**20
# Numbers of the embedding: head and proxies are 50 MB, and training them takes three times as much.
LARGE_EMBEDDING = 100_000


@pytest.fixture(scope="module")
def ended(head: Head, few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """Run a sweep of a good trial, one that diverges, and two that are out of memory.

    The third has the configuration of the first.
    """
    root = tmp_path_factory.mktemp("failing")
    space = yaml.safe_load(Path(__file__).with_name("tiny.yaml").read_text())
    # At this size, the memory of a batch counts.
    space["recipe"] |= {"warm_epochs": 1, "image_size": 96, "batch_size": BATCH, "num_sub_blocks": 2}
    space["search"] = {"lr": {"choice": [3e-4, 1e25]}, "embedding_size": {"choice": [64, LARGE_EMBEDDING]}}
    good = {"lr": 3e-4, "embedding_size": 64}
    space["first"] = [good, good | {"lr": 1e25}, good, good | {"embedding_size": LARGE_EMBEDDING}]
    (root / "space.yaml").write_text(yaml.safe_dump(space))
    arguments = f"--data {few_emoji} --search-space {root}/space.yaml --storage {root} --name sweep --trials 4 --seed 5"
    sweep = Sweep(arguments.split(), root, "sweep")
    # In a wide console, each cell of a table is one line.
    console = Console(sweep.start({**head.named, "COLUMNS": "300"}))
    peaks: list[int] = []
    with each_worker(head, lambda worker: peaks.append(worker.memory_info().data)):
        console.wait_for(f"trial {GOOD}  finished")
    console.wait_for(f"trial {DIVERGING}  failed")
    with each_worker(head, lambda worker: cap_memory(worker, max(peaks) - LACKING)):
        console.wait_for(f"trial {HELPED}  finished")
    with each_worker(head, lambda worker: cap_memory(worker, max(peaks))):
        console.wait_for(f"trial {LARGE}  failed")
    printed = console.end()
    assert console.process.returncode == 0, printed
    return sweep, printed


@contextmanager
def each_worker(head: Head, act: Callable[[psutil.Process], None]) -> Iterator[None]:
    """Call a function with each worker of the running trial, several times a second."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(0.1):
            for worker in train_workers(head.process):
                with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                    act(worker)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


def cap_memory(worker: psutil.Process, size: int) -> None:
    """Limit the memory that a process allocates, as a container or a machine would."""
    resource.prlimit(worker.pid, resource.RLIMIT_DATA, (size, size))


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


def test_a_trial_whose_memory_runs_out_goes_on_in_more_parts(ended: tuple[Sweep, str]) -> None:
    sweep, printed = ended
    found = record(sweep, HELPED)
    assert (found["state"], found["reason"], found["unfit"]) == ("finished", None, False)
    assert found["parts"] in (2, 4, 8, 16)
    assert found["restarts"] >= 1
    assert f"trial {HELPED}  resumes from its last checkpoint: " in printed
    assert "out of memory on the host (" in printed
    assert "; each batch is now computed in 2 parts" in printed


def test_its_scores_are_those_of_an_undisturbed_trial(ended: tuple[Sweep, str]) -> None:
    good, helped = (record(ended[0], number) for number in (GOOD, HELPED))
    assert (good["recipe"], good["parts"]) == (helped["recipe"], 1)
    assert len(good["epochs"]) == len(helped["epochs"]) == 3
    for undisturbed, metrics in zip(good["epochs"], helped["epochs"], strict=True):
        assert metrics[SCORE] == pytest.approx(undisturbed[SCORE], abs=1e-4)
        assert metrics["loss"] == pytest.approx(undisturbed["loss"], rel=1e-4)


def test_a_trial_for_which_not_even_one_image_fits_fails(ended: tuple[Sweep, str]) -> None:
    sweep, printed = ended
    found = record(sweep, LARGE)
    assert found["state"] == "failed"
    assert "out of memory on the host" in found["reason"]
    assert "even with one image at a time; lower batch_size" in found["reason"]
    assert found["parts"] == BATCH // 2
    assert found["unfit"]
    for parts in (2, 4, 8, 16):
        assert f"; each batch is now computed in {parts} parts" in printed


def test_the_sweep_goes_on_and_its_table_says_what_happened(ended: tuple[Sweep, str]) -> None:
    sweep, printed = ended
    assert record(sweep, GOOD)["state"] == "finished"
    assert (sweep.folder / "best" / "model.safetensors").is_file()
    # The last column is folded; memory may run out in torch or in oneDNN, which names no cause.
    table = printed.split("Trials (")[1].split("└")[0]
    ended_by = " ".join(line.split("│")[-2].strip() for line in table.splitlines() if line.count("│") > 2)
    assert "failed: the loss is nan" in ended_by
    assert f"finished (batches in {record(sweep, HELPED)['parts']} parts)" in ended_by
    assert re.search(r"failed: (probably )?out of memory on the host", ended_by), ended_by
    results = json.loads((sweep.folder / "report" / "results.json").read_text())
    assert results["winner"] in (GOOD, HELPED)
    page = (sweep.folder / "report" / "index.html").read_text()
    assert "out of memory on the host" in page
    assert f"(batches in {record(sweep, HELPED)['parts']} parts)" in page
