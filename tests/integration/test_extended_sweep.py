"""A sweep with a budget: a dry run, the end of the budget, and an extension of the budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray_head import Head
from small_sweep import Sweep, sweep_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sessions(
    head: Head, few_emoji: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Sweep, list[str], list[dict[str, Any]]]:
    """Run a dry run, a session of three epochs, and a session that extends the budget by one.

    Returns:
        The sweep, the output of all sessions, and the results of the last two.
    """
    sweep = sweep_of(few_emoji, tmp_path_factory.mktemp("budget"), "sweep", trials=4)
    sweep.arguments += ["--objectives", "recall@1,flops", "--workers-per-trial", "1"]
    printed = [sweep.added("--budget", "3epochs", "--dry-run").run(environment=head.named)]
    assert not sweep.folder.exists()
    results = []
    for arguments in (["--budget", "3epochs"], ["--budget", "4epochs", "--extend"]):
        printed.append(sweep.added(*arguments).run(environment=head.named))
        results.append(json.loads((sweep.folder / "report" / "results.json").read_text()))
        winner = json.loads((sweep.folder / "trials" / "winner" / "record.json").read_text())
        results[-1]["charged at"] = (sweep.folder / "elapsed.json").stat().st_mtime
        results[-1]["winner began"] = winner["began"]
    return sweep, printed, results


def test_a_dry_run_tells_the_plan(sessions: tuple[Sweep, list[str], list[dict[str, Any]]]) -> None:
    printed = sessions[1][0]
    assert "4 trial(s) to run" in printed
    assert "ASHA may stop a trial after epoch" in printed
    assert "at most 12" in printed
    assert "ends after 3 epochs" in printed
    assert "nothing was started" in printed


def test_the_search_ends_when_the_budget_is_spent(sessions: tuple[Sweep, list[str], list[dict[str, Any]]]) -> None:
    found = sessions[2][0]["trials"]
    assert [len(trial["epochs"]) for trial in found] == [3]
    assert found[0]["state"] == "finished"
    assert (sessions[0].folder / "best" / "model.safetensors").is_file()


def test_the_winners_training_is_not_charged_to_the_budget(
    sessions: tuple[Sweep, list[str], list[dict[str, Any]]],
) -> None:
    """The charge is written before the winner begins, and not again afterwards."""
    folder = sessions[0].folder
    charged = json.loads((folder / "elapsed.json").read_text())["seconds"]
    searched = sum(trial["ended"] - trial["began"] for trial in sessions[2][-1]["trials"])
    assert searched - 1 <= charged
    # The second session has the same winner and doesn't train it again.
    first = sessions[2][0]
    assert first["charged at"] <= first["winner began"] + 0.5


def test_extended_it_goes_on_where_it_was(sessions: tuple[Sweep, list[str], list[dict[str, Any]]]) -> None:
    before, after = sessions[2]
    assert after["trials"][0] == before["trials"][0]
    assert [len(trial["epochs"]) for trial in after["trials"]] == [3, 1]
    assert (after["trials"][1]["state"], after["trials"][1]["reason"]) == ("stopped", "the budget is spent")
    assert "stopped early: the budget is spent" in sessions[1][2]


def test_accuracy_against_flops_is_a_front(sessions: tuple[Sweep, list[str], list[dict[str, Any]]]) -> None:
    results = sessions[2][1]
    flops = [trial["flops"] for trial in results["trials"]]
    assert all(value > 0 for value in flops)
    assert results["front"]
    assert set(results["front"]) <= {0, 1}
    assert "FLOPs" in sessions[1][2]
    assert results["trials"][0]["recipe"]["inference"] == "routed"


def test_without_extend_a_raised_budget_is_refused(sessions: tuple[Sweep, list[str], list[dict[str, Any]]]) -> None:
    assert "--extend" in sessions[0].added("--budget", "9epochs").run(code=2)
