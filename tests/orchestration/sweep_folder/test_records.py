"""Records of trials and the values derived from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dfml.recipe import recipe_from
from dfml.task import BEST_SCORE
from orchestration.report.results import best_trial, trial_rows
from orchestration.sweep_folder.records import TrialRecord, describe, load_records


def record(number: int, values: list[float], **more: Any) -> TrialRecord:
    made = TrialRecord(
        number=number,
        parameters={"num_sub_blocks": 2},
        recipe=recipe_from({"num_sub_blocks": 2, "lr": 3e-4}),
        **more,
    )
    for epoch, value in enumerate(values, start=1):
        made.add({"epoch": epoch, BEST_SCORE: max(values[:epoch]), "recall_at_1": value})
    return made


def test_an_epoch_that_a_resumed_run_reports_again_is_taken_once() -> None:
    made = record(0, [0.1, 0.2])
    assert not made.add({"epoch": 2, BEST_SCORE: 0.9})
    assert made.add({"epoch": 3, BEST_SCORE: 0.3})
    assert [metrics["epoch"] for metrics in made.epochs] == [1, 2, 3]
    assert made.best == 0.3


def test_records_are_read_back_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    made = [record(number, [0.1 * number]) for number in (1, 0, 2)]
    for one in made:
        one.save(str(tmp_path))
    assert load_records(str(tmp_path)) == sorted(made, key=lambda one: one.number)


def test_the_best_trial_is_the_first_of_the_highest_and_never_a_failed_one() -> None:
    trials = [record(0, [0.3, 0.1]), record(1, [0.5]), record(2, [0.2, 0.5]), record(3, [0.9], state="failed")]
    winner = best_trial(trials)
    assert winner is not None
    assert winner.number == 1
    assert best_trial([record(0, []), record(1, [0.9], state="failed")]) is None


def test_a_configuration_in_a_few_words() -> None:
    one = record(0, [])
    assert describe(one.recipe) == "K=2 lr 3.0e-04 step(5, ×0.5)"
    one.recipe = recipe_from({"num_sub_blocks": 2, "lr": 3e-4, "schedule": {"kind": "cosine"}})
    assert describe(one.recipe) == "K=2 lr 3.0e-04 cosine"
    one.recipe = recipe_from({"schedule": {"kind": "exponential", "gamma": 0.87654}})
    assert trial_rows([one])[0][3] == "exponential(×0.877)"


def test_a_failed_trials_row_says_why() -> None:
    assert trial_rows([record(0, [], state="failed", reason="TrainingDiverged: nan")])[0][-1] == (
        "failed: TrainingDiverged: nan"
    )
