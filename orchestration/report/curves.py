"""Learning curves: each trial's score by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfml.task import SCORE
from orchestration.report.results import Results
from orchestration.report.style import ACCENT, FAINT, MAIN, SERIES, STOPPED, Chart
from orchestration.sweep_folder.records import TrialRecord, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = len(SERIES)  # with at most this many trials, each line has its own color and name

# The line of each state, and the mark of its last epoch.
LINES = {"finished": "-", "stopped": "--", "failed": ":", "running": "-."}
ENDS = {"stopped": "s", "failed": "X"}


def learning_curves(results: Results) -> Chart:
    """Draw all trials, the winner on top, and the winner's runs if their epochs were scored."""
    name, title = "learning_curves", "Learning curves"
    curves = {record.number: points for record in results.trials if (points := _points(record))[0]}
    if not curves:
        return Chart(name, title, "Not shown: no epoch has a score.")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 4.6))
    axes = figure.subplots()
    few = len(curves) <= NAMED
    drawn = sorted((r for r in results.trials if r.number in curves), key=lambda r: r.number == results.winner)
    colors = dict(zip(curves, SERIES, strict=False))
    for record in drawn:
        won = record.number == results.winner
        color = ACCENT if won else colors[record.number] if few else MAIN if record.state == "finished" else STOPPED
        label = f"{record.number}: {describe(record.recipe)}{_ended(record)}{' – winner' if won else ''}"
        _draw(axes, record, *curves[record.number], color, won, label if few else None)
    seeds = [run for run in results.runs if _points(run)[0] and not results.is_copy(run)]
    for run in seeds:
        name_once = "winner's recipe, by seed" if run is seeds[0] else None
        axes.plot(
            *_points(run), "-.", color=ACCENT, linewidth=1, label=name_once, gid=f"seed {run.recipe.seed}", zorder=4
        )
    if not few:
        _legend_of_kinds(axes, drawn)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{results.task.heading} on {results.scored_on} {results.task.unit}")
    last = max(epochs[-1] for epochs, _ in curves.values())
    axes.set_xlim(1 - 0.02 * last, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2 if few else 4)
    caption = (
        f"{len(curves)} trials: solid lines finished, dashed lines with a square were stopped early, and dotted lines "
        "with a cross failed. The thick red line is the winner."
    )
    return Chart(name, title, caption, figure, "epochs.csv")


def _points(record: TrialRecord) -> tuple[list[float], list[float]]:
    scored = [metrics for metrics in record.epochs if SCORE in metrics]
    return [metrics["epoch"] for metrics in scored], [metrics[SCORE] for metrics in scored]


def _draw(
    axes: Axes, record: TrialRecord, epochs: list[float], scores: list[float], color: str, won: bool, label: str | None
) -> None:
    axes.plot(
        epochs,
        scores,
        LINES[record.state],
        color=color,
        linewidth=3 if won else 1.3 if label else 0.9,
        alpha=1 if won or label else 0.6,
        marker="o" if len(epochs) <= 12 else "",
        markersize=4 if won else 2.5,
        label=label,
        gid=f"trial {record.number}",
        zorder=4 if won else 3 if record.state == "finished" else 2,
    )
    if record.state in ENDS:
        axes.plot(
            epochs[-1:],
            scores[-1:],
            ENDS[record.state],
            color=color,
            markersize=6 if label else 3,
            gid=f"end of trial {record.number}",
        )


def _ended(record: TrialRecord) -> str:
    return "" if record.state == "finished" else f" ({record.state})"


def _legend_of_kinds(axes: Axes, records: list[TrialRecord]) -> None:
    """Name the kinds of lines, if there are too many lines to name each."""
    axes.plot([], [], "-", color=ACCENT, linewidth=3, label=f"winner (trial {records[-1].number})")
    for state, color in (("finished", MAIN), ("stopped", STOPPED), ("failed", FAINT)):
        count = sum(record.state == state for record in records)
        if count:
            axes.plot([], [], LINES[state], color=color, marker=ENDS.get(state, ""), label=f"{state} ({count})")
