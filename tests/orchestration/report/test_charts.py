"""Charts draw the numbers of the CSV files; a chart without information gives a reason instead."""

from __future__ import annotations

import csv
import io
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from dfml.task import SCORE
from orchestration.report.costs import saved_in_words, time_of_trials, times
from orchestration.report.curves import learning_curves
from orchestration.report.improvement import improvement
from orchestration.report.numbers import csv_files
from orchestration.report.optuna_charts import Search, front, history, importances, parallel_coordinates
from orchestration.report.report import draw
from orchestration.report.results import Results
from orchestration.report.routers import load_entropy, router_choices, router_load
from orchestration.report.style import Chart, styled
from tests.sweep_results import ROUTERS, SPACE, record, results_of_trials, trials

TOLD = [
    ("finished", [0.4, 0.5, 0.45, 0.5]),
    ("stopped", [0.3, 0.35]),
    ("failed", [0.2]),
    ("finished", [0.4, 0.52, 0.6, 0.58]),
    ("failed", []),
    ("stopped", [0.41, 0.51, 0.55]),
]


@pytest.fixture(scope="module")
def sweep() -> Results:
    records = trials(*TOLD)
    run = records[3].model_copy(deep=True, update={"kind": "winner", "number": 0})
    for metrics in run.epochs:  # trained on all classes: without scores, with other loads
        del metrics[SCORE]
        metrics["router_load"][0][:2] = 0.25, 0.75
    return results_of_trials(records, runs=[run], winner_epochs=3, front=[])


def numbers(results: Results, file: str, objectives: Any = ("score",)) -> list[dict[str, str]]:
    search = Search(results, SPACE, objectives)
    return list(csv.DictReader(io.StringIO(csv_files(results, search, improvement(results, SPACE, 4, "mine"))[file])))


def axes_of(chart: Chart) -> Any:
    assert chart.figure is not None, chart.caption
    return chart.figure.axes[0]


def test_learning_curves_are_the_epochs_of_the_csv(sweep: Results) -> None:
    rows = numbers(sweep, "epochs.csv")
    lines = {line.get_gid(): line for line in axes_of(learning_curves(sweep)).lines}
    for one in sweep.trials:
        drawn = [(float(row["epoch"]), float(row[SCORE])) for row in rows if row["run"] == str(one.number)]
        line = lines.get(f"trial {one.number}")
        assert (line is not None) == bool(drawn)
        if line is not None:
            assert list(zip(*line.get_data(), strict=True)) == drawn
    assert len([row for row in rows if row["run"] == f"seed {sweep.won.recipe.seed}"]) == 4


def test_stopped_failed_and_winning_trials_are_told_apart(sweep: Results) -> None:
    lines = {line.get_gid(): line for line in axes_of(learning_curves(sweep)).lines}
    assert [lines[f"trial {n}"].get_linestyle() for n in (0, 1, 2, 3, 5)] == ["-", "--", ":", "-", "--"]
    assert {n for n in range(6) if f"end of trial {n}" in lines} == {1, 2, 5}
    widths = {n: lines[f"trial {n}"].get_linewidth() for n in (0, 1, 2, 3, 5)}
    assert max(widths, key=lambda n: widths[n]) == 3
    assert axes_of(learning_curves(sweep)).get_legend() is not None


def test_the_winners_runs_are_drawn_where_their_epochs_were_scored(sweep: Results) -> None:
    """Under protocol `paper` they are scored; the run of `sweep` has no scores and isn't drawn."""
    assert not [line for line in axes_of(learning_curves(sweep)).lines if str(line.get_gid()).startswith("seed")]
    again = sweep.won.recipe.model_copy(update={"seed": 9})
    run = sweep.won.model_copy(deep=True, update={"kind": "winner", "number": 0, "recipe": again})
    scored = sweep.model_copy(update={"runs": [run]})
    lines = {line.get_gid(): line.get_ydata().tolist() for line in axes_of(learning_curves(scored)).lines}
    assert lines["seed 9"] == TOLD[3][1]
    assert [float(row[SCORE]) for row in numbers(scored, "epochs.csv") if row["run"] == "seed 9"] == TOLD[3][1]


def test_with_many_trials_the_legend_names_kinds_of_lines() -> None:
    many = results_of_trials(trials(*[("stopped", [0.3, 0.3 + n / 1000]) for n in range(30)]))
    axes = axes_of(learning_curves(many))
    assert len([line for line in axes.lines if str(line.get_gid()).startswith("trial")]) == 30
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["winner (trial 29)", "stopped (30)"]


def test_the_history_has_the_scores_of_the_csv_and_the_winner_is_its_best(sweep: Results) -> None:
    scored = {
        int(row["trial"]): float(row["best_validation_score"])
        for row in numbers(sweep, "trials.csv")
        if row["ended"] != "failed"
    }
    with styled():
        axes = axes_of(history(Search(sweep, SPACE, ("score",))))
        offsets = [found.get_offsets().tolist() for found in axes.collections]
        # Optuna also draws infeasible trials, of which there are none.
        finished, stopped = (each for each in offsets if each)
        best = axes.lines[0].get_ydata()
    assert finished == [[n, score] for n, score in scored.items()]
    assert stopped == [[n, scored[n]] for n in (1, 5)]
    assert best[-1] == max(scored.values()) == sweep.won.best


def test_importances_are_those_of_the_csv_and_of_what_varied() -> None:
    sweep = results_of_trials(trials(*TOLD, *(("finished", [0.3, 0.4 + 0.02 * i]) for i in range(9))))
    rows = numbers(sweep, "importances.csv")
    with styled():
        axes = axes_of(importances(Search(sweep, SPACE, ("score",))))
        widths = [bar.get_width() for bar in axes.patches]
        names = [label.get_text() for label in axes.get_yticklabels()]
    assert dict(zip(names, widths, strict=True)) == {row["name"]: float(row["importance"]) for row in rows}
    assert sum(widths) == pytest.approx(1)
    scored = [one.parameters for one in sweep.trials if one.state != "failed"]
    searched = {name for given in scored for name in given}
    assert set(names) == {name for name in searched if len({given.get(name) for given in scored}) > 1}
    assert "lr" in names


def test_what_the_score_was_made_of_is_the_most_important() -> None:
    """Sixty trials have scores that depend only on the learning rate."""
    records = trials(*[("stopped", [0.1])] * 60)
    for one in records:
        score = 1 - abs(np.log10(one.recipe.lr) + 2.2) / 10
        one.epochs = record(0, float(score)).epochs
    search = Search(results_of_trials(records), SPACE, ("score",))
    assert next(iter(search.importances())) == "lr"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([("finished", [0.5]), ("failed", [])], "at least 2 scored trials (this sweep has 1 among its 2 trials)"),
        ([("finished", [0.5]), ("finished", [0.6])], "at least 11 scored trials (this sweep has 2)"),
        ([("finished", [0.5])] * 11, "all scores are equal"),
    ],
)
def test_importances_that_would_say_nothing_are_left_out(told: Any, said: str) -> None:
    results = results_of_trials(trials(*told))
    search = Search(results, SPACE, ("score",))
    chart = importances(search)
    assert chart.figure is None
    assert said in chart.caption
    assert "importances.csv" not in csv_files(results, search, improvement(results, SPACE, 4, "mine"))


def test_alike_configurations_have_neither_importances_nor_parallel_coordinates() -> None:
    one, other = trials(("finished", [0.5]), ("finished", [0.6]))
    other.recipe, other.parameters = one.recipe, one.parameters
    search = Search(results_of_trials([one, other]), SPACE, ("score",))
    for chart in (importances(search), parallel_coordinates(search)):
        assert chart.figure is None
        assert "same configuration" in chart.caption


def test_parallel_coordinates_have_a_line_for_each_scored_trial(sweep: Results) -> None:
    with styled():
        axes = axes_of(parallel_coordinates(Search(sweep, SPACE, ("score",))))
        segments = axes.collections[0].get_segments()
    firsts = sorted(float(segment[0][1]) for segment in segments)
    assert firsts == sorted(one.best or 0 for one in sweep.trials if one.state != "failed")


def test_the_front_is_that_of_the_csv() -> None:
    told = [("finished", [0.5]), ("stopped", [0.6]), ("finished", [0.55]), ("finished", [0.7])]
    results = results_of_trials(trials(*told, flops=True))
    rows = numbers(results, "pareto_front.csv", ("score", "flops"))
    with styled():
        axes = axes_of(front(Search(results, SPACE, ("score", "flops"))))
        beaten, best = (sorted(found.get_offsets().tolist()) for found in axes.collections)
    for drawn, on_front in ((beaten, "0"), (best, "1")):
        points = [[float(row["flops"]) / 1e9, float(row["score"])] for row in rows if row["on_front"] == on_front]
        assert drawn == sorted(points)
    assert [row["trial"] for row in rows if row["on_front"] == "1"] == ["0", "1", "3"]


def test_without_flops_as_objective_there_is_no_front(sweep: Results) -> None:
    chart = front(Search(sweep, SPACE, ("score",)))
    assert chart.figure is None
    assert "--objectives recall@1,flops" in chart.caption


def test_the_heat_map_is_the_retrained_models_and_that_of_the_csv(sweep: Results) -> None:
    rows = [row for row in numbers(sweep, "router_load.csv") if row["epoch"] == "3"]
    chart = router_load(sweep)
    assert chart.figure is not None
    heat, bars = chart.figure.axes[:2]
    drawn = np.asarray(heat.images[0].get_array())
    assert drawn.shape == (ROUTERS, sweep.won.recipe.num_sub_blocks)
    assert drawn[0, :2].tolist() == [0.25, 0.75]
    for row in rows:
        router, sub_block = int(row["router"]), int(row["sub_block"])
        assert drawn[router, sub_block] == float(row["load"])
        assert bars.patches[router].get_width() == float(row["load_entropy"])
    assert len(rows) == drawn.size
    assert [text.get_text() for text in bars.texts] == ["collapsed"]
    assert "1 of 4 have collapsed" in chart.caption
    assert "retrained" in chart.caption


def test_without_loads_of_the_retrained_model_the_trials_at_its_best_epoch_are_shown(sweep: Results) -> None:
    old = sweep.model_copy(update={"runs": []})
    chart = router_load(old)
    drawn = np.asarray(axes_of(chart).images[0].get_array())
    metrics = old.won.epochs[2]
    assert old.won.epochs[-1]["best_epoch"] == metrics["epoch"] == 3
    assert drawn[1, 0] == metrics["router_load"][1][0]
    assert "trial 3, the winner, after epoch 3" in chart.caption


def test_routers_are_named_by_their_position(sweep: Results) -> None:
    names = ["0.attn_router", "0.mlp_router", "1.attn_router", "7.router"]
    axes = axes_of(router_load(sweep.model_copy(update={"router_names": names})))
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "block 0, attention",
        "block 0, MLP",
        "block 1, attention",
        "block 7",
    ]


def test_a_model_without_a_choice_has_no_router_charts() -> None:
    plain = results_of_trials([record(0, 0.5)])
    for chart in (router_load(plain), router_choices(plain)):
        assert chart.figure is None
        assert "Not shown" in chart.caption


def test_entropy_of_loads_runs_from_0_to_1() -> None:
    share = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    assert load_entropy(share) == pytest.approx([0, 1, np.log(2) / np.log(3)])


def test_choices_by_epoch_are_those_of_the_csv(sweep: Results) -> None:
    rows = numbers(sweep, "router_choices.csv")
    lines = {line.get_gid(): line.get_ydata().tolist() for line in axes_of(router_choices(sweep)).lines}
    for run, folder in (("3", "003"), ("seed 0", "winner")):
        for what in ("entropy of choice", "entropy of load", "switched", "collapsed"):
            values = [float(row[what.replace(" ", "_")]) for row in rows if row["run"] == run]
            assert lines[f"{folder} {what}"] == values
            assert len(values) == 4


def test_a_trials_time_is_divided_and_sums_up(sweep: Results) -> None:
    spent = times(sweep.trials[0])
    assert spent == (5.0, 32.0, 12.0, 4.0)
    chart = time_of_trials(sweep)
    tops = [bar.get_y() + bar.get_height() for bar in axes_of(chart).containers[-1]]
    rows = numbers(sweep, "trials.csv")
    assert tops == pytest.approx([float(row["total_seconds"]) / 60 for row in rows])


def test_what_stopping_saved_is_counted_in_epochs(sweep: Results) -> None:
    assert saved_in_words(sweep, 4) == (
        "2 of 6 trials were stopped early (2 by ASHA), which saved 3 of the 24 epochs of all trials (12%)."
    )


def test_no_figure_is_left_open_and_no_setting_changed(sweep: Results) -> None:
    pyplot.switch_backend("Agg")  # otherwise drawing would switch to it
    before = dict(matplotlib.rcParams)
    with styled():
        for section in draw(sweep, Search(sweep, SPACE, ("score",))).values():
            assert all(chart.figure is not None or chart.name in ("pareto_front", "importances") for chart in section)
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before
