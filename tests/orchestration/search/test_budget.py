"""Budgets are read from the command line, counted over sessions, and end a search."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dfml.errors import InvalidInput
from orchestration.records import TrialRecord
from orchestration.reports import FIGURES, RESUMED
from orchestration.search.budget import Budget, parse_budget
from orchestration.search.spent import Clock, Spent, end_cut


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


def result(epoch: int | None, resumed: bool = False) -> dict[str, Any]:
    """What Tune shows of a trial of four epochs: its figures, or something else where `epoch` is None."""
    figures = {} if epoch is None else {"epoch": epoch, FIGURES: ["epoch"], RESUMED: resumed}
    return {"config": {"job": {"epochs": 4}}, **figures}


def test_epochs_of_all_trials_count(tmp_path: Path) -> None:
    records = [trial(3), trial(2)]
    spent = Spent(Budget(epochs=6), Clock(str(tmp_path)), records)
    assert not spent.reached()
    assert not spent("any", result(None))
    assert not spent("any", result(2, resumed=True))  # in the records already
    assert spent("any", result(3))  # the sixth, not in the records yet
    records.append(trial(1))
    assert spent.reached()
    assert spent("any", result(None))


def test_a_trial_ends_its_last_epoch_by_itself(tmp_path: Path) -> None:
    spent = Spent(Budget(epochs=1), Clock(str(tmp_path)), [trial(3)])
    assert spent("any", result(3))
    assert not spent("any", result(4))
    assert not spent("any", {"done": True})


def test_tune_never_stops_all_at_once(tmp_path: Path) -> None:
    # Those that it stops so it tells neither its callbacks nor its searcher.
    assert not Spent(Budget(epochs=1), Clock(str(tmp_path)), [trial(3)]).stop_all()


def test_hours_count_over_sessions(tmp_path: Path) -> None:
    (tmp_path / "elapsed.json").write_text(json.dumps({"seconds": 3599.9}))
    spent = Spent(Budget(hours=1), Clock(str(tmp_path)), [])
    assert not Spent(Budget(hours=2), Clock(str(tmp_path)), []).reached()
    time.sleep(0.2)
    assert spent.reached()


def test_a_clock_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    first = Clock(str(tmp_path))
    time.sleep(0.2)
    first.save()
    assert Clock(str(tmp_path)).seconds >= 0.2


def test_without_a_budget_nothing_ends(tmp_path: Path) -> None:
    assert not Spent(None, Clock(str(tmp_path)), [trial(1000)]).reached()


def test_what_was_cut_ends_with_the_budget() -> None:
    ended, cut = trial(3), trial(1)
    ended.state = "finished"
    assert end_cut([ended, cut]) == [cut]
    assert (cut.state, cut.reason) == ("stopped", "the budget is spent")
    assert cut.ended is not None
    assert ended.reason is None
