"""The cost of a sweep, against sums by hand: pauses, earlier winners' runs, and copied runs."""

from __future__ import annotations

from typing import Any

from orchestration.report.costs import Times, cost_table, elapsed_in_words, times
from orchestration.report.reproductions import Reproduction
from orchestration.sweep_folder.records import TrialRecord
from tests.sweep_results import record, results

HOUR = 3600.0


def timed(number: int, began: float, workers_started: float, ended: float, **changes: Any) -> TrialRecord:
    """Return a record of two epochs, each with 100 s of training and 20 s of validation."""
    made = record(number, 0.5, began=began, workers_started=workers_started, ended=ended, cpu_hours=0.5, **changes)
    made.epochs = [
        {**made.epochs[0], "epoch": epoch, "train_seconds": 100.0, "validation_seconds": 20.0} for epoch in (1, 2)
    ]
    return made


def row(table: tuple[list[str], list[list[str]]], name: str) -> dict[str, str]:
    head, rows = table
    (found,) = (cells for cells in rows if cells[0].startswith(name))
    return dict(zip(head, found, strict=True))


def test_a_pause_between_sessions_is_no_trials_time() -> None:
    cut = timed(0, began=0.0, workers_started=10.0, ended=300.0 + 14 * HOUR, paused=14 * HOUR)
    assert times(cut) == Times(waiting=10.0, training=200.0, validation=40.0, other=50.0)


def test_search_runs_and_those_of_earlier_winners_are_summed() -> None:
    trials = [timed(0, 0.0, 5.0, 300.0, restarts=1), timed(1, 300.0, 305.0, 600.0, repeated_epochs=2)]
    run, earlier = timed(-2, 900.0, 905.0, 1150.0), timed(-1, 600.0, 605.0, 900.0)
    made = results(0.5, trials=trials, winner=1, runs=[run], earlier_runs=[earlier])
    made.reproductions = [Reproduction(seed=7, epochs=2, test={"recall_at_1": 0.5}, cpu_hours=0.5)]
    table = cost_table(made)
    assert row(table, "search (2)")["wall clock, summed"] == "0:10:00"
    assert row(table, "runs of earlier winners (1)")["wall clock, summed"] == "0:05:00"
    total = row(table, "total (4)")
    assert total["wall clock, summed"] == "0:19:10"
    assert total["CPU hours"] == "2.00"
    assert (total["epochs"], total["restarts"], total["epochs repeated"]) == ("8", "1", "2")
    assert "0:19:10" in elapsed_in_words(made)
    assert "2 CPU hours" in made.cost_in_words()


def test_by_protocol_paper_the_winning_trials_epochs_are_counted_once() -> None:
    trial = timed(0, 0.0, 5.0, 300.0)
    scoring = TrialRecord(
        kind="winner",
        number=0,
        parameters={},
        recipe=trial.recipe,
        state="finished",
        began=300.0,
        workers_started=302.0,
        ended=310.0,
    )
    scoring.epochs = trial.epochs[1:]
    made = results(0.5, protocol="paper", trials=[trial], winner=0, runs=[scoring])
    assert row(cost_table(made), "winner's runs")["wall clock, summed"] == "0:00:10"
    assert row(cost_table(made), "winner's runs")["epochs"] == "0"
    assert row(cost_table(made), "total")["epochs"] == "2"
