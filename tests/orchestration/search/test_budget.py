"""Budgets: parsing, counting over sessions, and the end of a search."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dfml.errors import InvalidInput
from orchestration.job import config_of
from orchestration.messages import EpochReport, WorkersStarted, result_of
from orchestration.search.budget import Budget, parse_budget
from orchestration.search.budget_stopper import BudgetStopper, ElapsedTime, stop_interrupted
from orchestration.sweep_folder.records import TrialRecord
from tests.plans import job_of


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
    """Return Tune's result for a trial of four epochs; None: a result without metrics."""
    message = WorkersStarted(1, None) if epoch is None else EpochReport({"epoch": epoch}, resumed, 0)
    return {"config": config_of(job_of(epochs=4)), **result_of(message)}


def test_epochs_of_all_trials_count(tmp_path: Path) -> None:
    records = [trial(3), trial(2)]
    stopper = BudgetStopper(Budget(epochs=6), ElapsedTime(str(tmp_path)), records)
    assert not stopper.reached()
    assert not stopper("any", result(None))
    assert not stopper("any", result(2, resumed=True))  # already in the records
    assert stopper("any", result(3))  # the sixth epoch, not yet in the records
    records.append(trial(1))
    assert stopper.reached()
    assert stopper("any", result(None))


def test_a_trial_ends_its_last_epoch_by_itself(tmp_path: Path) -> None:
    stopper = BudgetStopper(Budget(epochs=1), ElapsedTime(str(tmp_path)), [trial(3)])
    assert stopper("any", result(3))
    assert not stopper("any", result(4))
    assert not stopper("any", {"done": True})


def test_tune_never_stops_all_at_once(tmp_path: Path) -> None:
    # Tune reports trials stopped in this way neither to its callbacks nor to its searcher.
    assert not BudgetStopper(Budget(epochs=1), ElapsedTime(str(tmp_path)), [trial(3)]).stop_all()


def test_hours_count_over_sessions(tmp_path: Path) -> None:
    (tmp_path / "elapsed.json").write_text(json.dumps({"seconds": 3599.9}))
    stopper = BudgetStopper(Budget(hours=1), ElapsedTime(str(tmp_path)), [])
    assert not BudgetStopper(Budget(hours=2), ElapsedTime(str(tmp_path)), []).reached()
    time.sleep(0.2)
    assert stopper.reached()


def test_a_clock_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    first = ElapsedTime(str(tmp_path))
    time.sleep(0.2)
    first.save()
    assert ElapsedTime(str(tmp_path)).seconds >= 0.2


def test_without_a_budget_nothing_ends(tmp_path: Path) -> None:
    assert not BudgetStopper(None, ElapsedTime(str(tmp_path)), [trial(1000)]).reached()


def test_what_was_cut_ends_with_the_budget() -> None:
    ended, cut = trial(3), trial(1)
    ended.state = "finished"
    assert stop_interrupted([ended, cut]) == [cut]
    assert (cut.state, cut.reason) == ("stopped", "the budget is spent")
    assert cut.ended is not None
    assert ended.reason is None
