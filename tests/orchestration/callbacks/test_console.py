"""The console output of a sweep."""

from __future__ import annotations

import pytest

from orchestration.callbacks.console import Console
from orchestration.sweep_folder.records import TrialRecord


def test_brackets_in_reasons_and_cells_are_printed_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(trials=2)
    reason = "RuntimeError: shapes [2, 3] and [/tmp] don't match"
    console.trial_ended(TrialRecord(number=0, parameters={}, recipe={}, state="failed", reason=reason))
    console.table("Trials", ["ended"], [[reason]])
    printed = capsys.readouterr().out
    assert printed.count(reason) == 2


def test_columns_of_numbers_are_aligned_on_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(trials=1)
    console.table("Trials", ["trial", "ended"], [["7", "stopped"], ["", "finished"]])
    rows = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert rows == [["     7 ", " stopped  "], ["       ", " finished "]]
