"""Budgets are read from the command line, counted over sessions, and end a search."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dfml.errors import InvalidInput
from orchestration.budget import Budget, parse_budget
from orchestration.records import TrialRecord
from orchestration.spent import Clock, Spent


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("12h", Budget(hours=12)),
        ("1.5 h", Budget(hours=1.5)),
        ("90min", Budget(hours=1.5)),
        ("300epochs", Budget(epochs=300)),
        ("1 epoch", Budget(epochs=1)),
    ],
)
def test_a_budget_is_hours_minutes_or_epochs(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "12", "h", "0h", "-3h", "1.5epochs", "3 days", "nan h", "12h30"])
def test_anything_else_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InvalidInput, match="12h, 90min or 300epochs"):
        parse_budget(text)


def trial(epochs: int) -> TrialRecord:
    return TrialRecord(number=0, parameters={}, recipe={}, epochs=[{"epoch": n} for n in range(epochs)])


def test_epochs_of_all_trials_count(tmp_path: Path) -> None:
    records = [trial(3), trial(2)]
    spent = Spent(Budget(epochs=6), Clock(str(tmp_path)), records)
    assert not spent.stop_all()
    records.append(trial(1))
    assert spent.stop_all()
    assert spent("any", {})


def test_hours_count_over_sessions(tmp_path: Path) -> None:
    (tmp_path / "elapsed.json").write_text(json.dumps({"seconds": 3599.9}))
    spent = Spent(Budget(hours=1), Clock(str(tmp_path)), [])
    assert not Spent(Budget(hours=2), Clock(str(tmp_path)), []).stop_all()
    time.sleep(0.2)
    assert spent.stop_all()


def test_a_clock_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    first = Clock(str(tmp_path))
    time.sleep(0.2)
    first.save()
    assert Clock(str(tmp_path)).seconds >= 0.2


def test_without_a_budget_nothing_ends(tmp_path: Path) -> None:
    assert not Spent(None, Clock(str(tmp_path)), [trial(1000)]).stop_all()
