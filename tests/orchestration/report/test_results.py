"""The tables of a sweep on the console and in the report."""

from __future__ import annotations

import csv
import html
import io

import pytest

from orchestration.callbacks.console import Console
from orchestration.report.numbers import trials_csv
from orchestration.report.reproductions import Reproduction, interval
from orchestration.report.results import Results, show
from orchestration.report.tables import trial_columns, trial_rows
from tests.sweep_results import page_of, record, results, scores


def printed(of: Results, capsys: pytest.CaptureFixture[str]) -> str:
    show(of, Console(trials=2))
    return capsys.readouterr().out


def cells(text: str, first: str) -> list[str]:
    """Return the row of a printed table with a given first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    (row,) = [row for row in rows if row[0] == first]
    return row


def test_mean_and_interval_of_the_seeds_stand_on_the_console_and_in_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    of = results(0.50, 0.52, 0.57)
    text = printed(of, capsys)
    assert cells(text, "seed 8") == ["seed 8", "0.520", "0.620", "0.260"]
    assert cells(text, "mean")[1] == "0.530"
    half = interval([0.50, 0.52, 0.57]).half_width
    assert cells(text, "95 % interval, ±")[1] == f"{half:.3f}" == "0.090"
    assert "the first seed's, 7: keeping the best one would be selection on the test images" in text
    page = page_of(of)
    assert "<td>mean</td><td>0.530</td>" in page
    assert f"<td>95 % interval, ±</td><td>{half:.3f}</td>" in page


def test_one_seed_has_no_such_table(capsys: pytest.CaptureFixture[str]) -> None:
    of = results(0.5)
    assert of.interval == {}
    assert "95 %" not in printed(of, capsys)
    assert "Reproductions" not in page_of(of)


def test_a_seed_that_failed_is_named_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(results(0.50, "TrainingDiverged: nan", 0.54), capsys)
    assert cells(text, "seed 8 failed: TrainingDiverged: nan")[1] == ""
    assert cells(text, "mean")[1] == "0.520"
    assert "of which 1 failed" in text


@pytest.mark.parametrize(
    ("protocol", "said", "not_said"),
    [
        ("holdout", ["R@1 on validation classes", "retrained on all training classes"], "biased"),
        ("paper", ["R@1 on test classes", "epoch chosen on the test classes", "optimistically biased"], "validation"),
    ],
)
def test_the_protocol_is_said_in_words(
    protocol: str, said: list[str], not_said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    of = results(0.5, protocol=protocol)
    text = printed(of, capsys)
    page = page_of(of)
    for words in said:
        assert words in text
    assert not_said not in text
    assert said[-1] in page or said[-1].capitalize() in page
    for everywhere in (text, page):
        assert "evaluated 5 time(s)" in everywhere


def test_what_ended_a_trial_is_said() -> None:
    ended = [
        record(0, 0.5),
        record(1, 0.5, state="stopped"),
        record(2, 0.5, state="stopped", reason="the budget is spent"),
        record(3, 0.5, state="failed", reason="out of memory"),
    ]
    assert [row[-1] for row in trial_rows(ended)] == [
        "finished",
        "stopped: ASHA",
        "stopped: the budget is spent",
        "failed: out of memory",
    ]


def test_each_cell_stands_below_its_heading_and_costs_are_columns_where_there_are_any() -> None:
    plain = [record(0, 0.5)]
    assert trial_columns(plain) == ["trial", "K", "lr", "schedule", "epochs", "R@1", "ended"]
    row = dict(zip(trial_columns(plain), trial_rows(plain)[0], strict=True))
    recipe, epochs = plain[0].recipe, len(plain[0].epochs)
    assert recipe.num_sub_blocks != epochs
    assert [row[name] for name in ("trial", "K", "lr", "epochs", "R@1")] == [
        "0", str(recipe.num_sub_blocks), f"{recipe.lr:.1e}", str(epochs), "0.500"
    ]  # fmt: skip
    spent = [record(0, 0.5, cpu_hours=1.2345), record(1, 0.5, s3_bytes=1_240_000_000)]
    assert trial_columns(spent)[-3:] == ["CPU h", "from S3", "ended"]
    assert [row[-3:-1] for row in trial_rows(spent)] == [["1.23", "0 bytes"], ["0", "1.2 GB"]]


def test_batches_in_more_parts_than_the_recipe_says_are_told() -> None:
    trials = [
        record(0, 0.5, parts=1),
        record(1, 0.5, parts=4),
        record(2, 0.5, parts=8, state="failed", reason="out of memory"),
        record(3, 0.5),
    ]
    assert [row[-1] for row in trial_rows(trials)] == [
        "finished", "finished (batches in 4 parts)", "failed: out of memory (batches in 8 parts)", "finished"
    ]  # fmt: skip
    asked = record(4, 0.5, parts=4)
    asked.recipe = asked.recipe.model_copy(update={"gradient_accumulation": 4})
    assert trial_rows([asked])[0][-1] == "finished"


def test_the_csv_has_all_costs() -> None:
    costly = record(0, 0.6, gpu_hours=2.5, restarts=1, parts=4, loader_workers=3)
    of = results(0.5, trials=[costly, record(1, 0.7, state="failed", reason="a, b")])
    rows = list(csv.DictReader(io.StringIO(trials_csv(of))))
    assert (rows[0]["gpu_hours"], rows[0]["restarts"], rows[0]["best_validation_score"]) == ("2.5", "1", "0.6")
    assert (rows[0]["parts"], rows[0]["loader_workers"]) == ("4", "3")
    assert (rows[1]["ended"], rows[1]["reason"]) == ("failed", "a, b")


def test_the_pareto_front_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [record(0, 0.6, flops=2.5e9), record(1, 0.7, flops=4e9), record(2, 0.5, flops=3e9)]
    of = results(0.5, trials=trials, front=[1, 0])
    text = printed(of, capsys)
    _, table = text.split("Pareto front")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in table.split("Test classes")[0].splitlines()[3:-1]
    ]
    assert [row for row in rows if row] == [["1", "2", "all", "4", "0.700"], ["0", "2", "all", "2.5", "0.600"]]
    assert "<td>all</td><td>2.5</td><td>0.600</td>" in page_of(of)
    assert "Pareto" not in page_of(results(0.5))


def test_the_cost_is_that_of_trials_and_the_winners_runs_together(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [record(0, 0.6, cpu_hours=1.5, s3_bytes=3_000_000), record(1, 0.7, cpu_hours=0.5, gpu_hours=0.25)]
    run = Reproduction(seed=7, epochs=2, test=scores(0.5), cpu_hours=0.75, s3_bytes=500_000)
    of = results(0.5, trials=trials, reproductions=[run])
    said = "rials and the winner's runs took 2.75 CPU hours, 0.25 GPU hours, 3.5 MB from S3"
    assert f"t{said}" in printed(of, capsys)
    assert f"T{said}." in html.unescape(page_of(of))
    assert results(0.5).cost_in_words() == ""
