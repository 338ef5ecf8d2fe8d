"""Two sweeps at once on a cluster with resources for one trial.

The second reports what it waits for, and both end with the same metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nodes import WORKER_PROCESS, Console, cluster_of, first_to_say, paused
from small_sweep import Sweep, sweep_of

pytestmark = [pytest.mark.integration, pytest.mark.clusters]


@pytest.fixture(scope="module")
def both(few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Sweep, str]]:
    """Run two sweeps with the same arguments at once; return each with its output."""
    storage = tmp_path_factory.mktemp("shared")
    sweeps = [sweep_of(few_emoji, storage, name, trials=1) for name in ("one", "other")]
    for sweep in sweeps:
        sweep.arguments += ["--max-epochs", "6"]
    with cluster_of(2) as nodes:
        consoles = [Console(nodes.start(sweep)) for sweep in sweeps]
        first = first_to_say("trial 0  epoch 1/6", consoles)
        # It holds all resources and could end before the other reports what it waits for.
        with paused(nodes.processes(WORKER_PROCESS)):
            for console in consoles:
                if console is not first:
                    console.wait_for("waits for its workers")
        printed = [console.end() for console in consoles]
        assert [console.process.returncode for console in consoles] == [0, 0], printed
        assert nodes.left_placement_groups() == "[]"
    return list(zip(sweeps, printed, strict=True))


def test_the_one_without_room_says_what_it_waits_for(both: list[tuple[Sweep, str]]) -> None:
    waits = [line for _, printed in both for line in printed.splitlines() if "waits for its workers" in line]
    assert waits
    assert "2 worker(s)" in waits[0]
    assert "of which 0" in waits[0]


def test_they_dont_disturb_each_other(both: list[tuple[Sweep, str]]) -> None:
    def record(sweep: Sweep) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((sweep.folder / "trials" / "000" / "record.json").read_text())
        return found

    one, other = (record(sweep) for sweep, _ in both)
    assert one["state"] == other["state"] == "finished"
    assert one["restarts"] == other["restarts"] == 0
    for a, b in zip(one["epochs"], other["epochs"], strict=True):
        for name in ("loss", "recall_at_1", "map_at_r"):
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-4)
    assert all((sweep.folder / "best" / "model.safetensors").is_file() for sweep, _ in both)
