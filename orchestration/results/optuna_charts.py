"""Optuna's own charts of a sweep: history, importance of what was searched, parallel coordinates, Pareto front.

Optuna leaves trials out that ASHA stopped, and so would most of a sweep's. Here such a trial counts with the best score that it had
reached: as it does in the choice of the winner, and in the sampler's study of two objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestration.records import TrialRecord
from orchestration.results.style import ACCENT, FAINT, INK, MAIN, STOPPED, Chart, of_optuna, restyle, scale
from orchestration.results.summary import Results
from orchestration.search.objectives import Objective
from orchestration.search.space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FEWEST = 11  # scored trials of which the best tenth is more than one
TELLING = 50  # scored trials from which on the best tenth is five, below which Optuna calls importances unstable


class Search:
    """A sweep's trials as Optuna's charts take them.

    Args:
        results: of the sweep.
        space: what it searched.
        objectives: what it optimised.
    """

    def __init__(self, results: Results, space: SearchSpace, objectives: tuple[Objective, ...]) -> None:
        self.results = results
        self.study = _study(results, space, objectives)
        self.score = f"{results.scored_on} {results.task.heading}"
        self.two = "flops" in objectives
        self.scored = [trial for trial in self.study.get_trials(deepcopy=False) if trial.values is not None]

    def varied(self) -> list[str]:
        """What took more than one value in the trials that have a score, in the order of the space."""
        values: dict[str, set[object]] = {}
        for trial in self.scored:
            for name, value in trial.params.items():
                values.setdefault(name, set()).add(value)
        return [name for name, taken in values.items() if len(taken) > 1]

    def target(self) -> Callable[[FrozenTrial], float] | None:
        """What importances are of. With two objectives Optuna must be told, and takes less as better."""
        return (lambda trial: -trial.values[0]) if self.two else None

    def importances(self) -> dict[str, float]:
        """Each varied parameter's share in what sets the best tenth of the scored trials apart from all, by Optuna's PED-ANOVA."""
        from optuna.importance import get_param_importances

        with of_optuna():
            return get_param_importances(self.study, params=self.varied(), target=self.target())

    def why_not(self) -> str | None:
        """Why trials can't be compared; None where they can."""
        if len(self.scored) < 2:
            return f"Left out: {len(self.scored)} of {len(self.results.trials)} trials has a score, and it takes two to compare."
        if not self.varied():
            return "Left out: all trials that have a score have the same configuration."
        return None

    def why_no_importances(self) -> str | None:
        """Why nothing can be said of what matters; None where it can."""
        if reason := self.why_not():
            return reason
        if len(self.scored) < FEWEST:
            return (
                f"Left out: of {len(self.scored)} trials with a score the best tenth, which is compared with all, is the best alone; "
                f"from {FEWEST} on it says something."
            )
        if len({trial.values[0] for trial in self.scored}) == 1:
            return "Left out: all scores are equal, so that nothing sets the best trials apart."
        return None


def _study(results: Results, space: SearchSpace, objectives: tuple[Objective, ...]) -> Study:
    from optuna.storages import InMemoryStorage

    from orchestration.search.study import SweepStudy

    def counted(record: TrialRecord) -> TrialRecord:
        reached = record.state == "stopped" and record.best is not None
        return record.model_copy(update={"state": "finished"}) if reached else record

    return SweepStudy(InMemoryStorage(), space, objectives, map(counted, results.trials)).study


def _score(trial: FrozenTrial) -> float:
    return trial.values[0]


def history(search: Search) -> Chart:
    """Each trial's score in the order of their numbers, and the best so far."""
    name, title = "optimization_history", "Optimisation history"
    if not search.scored:
        return Chart(name, title, "Left out: no trial has a score.")
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization.matplotlib import plot_optimization_history

    target = _score if search.two else None  # with one objective Optuna draws the best so far as well
    with of_optuna():
        axes = plot_optimization_history(search.study, target=target, target_name=search.score)
    restyle(axes)
    figure = _sized(axes, 8, 3.6)
    axes.set_xlabel("trial")
    axes.collections[0].set_color(MAIN)
    axes.collections[0].set_label("finished")
    for line in axes.lines:
        line.set(color=ACCENT, alpha=1, drawstyle="steps-post", label="best so far")
    stopped = [record for record in search.results.trials if record.state == "stopped" and record.best is not None]
    if stopped:
        numbers, reached = [record.number for record in stopped], [record.best or 0.0 for record in stopped]
        axes.scatter(
            numbers, reached, facecolors="white", edgecolors=STOPPED, linewidths=1.5, zorder=3, label="stopped early"
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    failed = sum(trial.values is None for trial in search.study.get_trials(deepcopy=False))
    caption = "Each trial's best score; one that was stopped early has what it had reached until then." + (
        f" {failed} trial(s) came to no score and are not drawn." if failed else ""
    )
    return Chart(name, title, caption, figure, "trials.csv")


def importances(search: Search) -> Chart:
    """What the score depended on."""
    name, title = "importances", "What mattered"
    if reason := search.why_no_importances():
        return Chart(name, title, reason)
    from optuna.visualization.matplotlib import plot_param_importances

    names = search.varied()
    with of_optuna():
        axes = plot_param_importances(search.study, params=names, target=search.target(), target_name=search.score)
    restyle(axes)
    figure = _sized(axes, 7, 1.2 + 0.27 * len(names))
    if legend := axes.get_legend():
        legend.remove()  # the axis says it
    axes.set_ylabel("")
    axes.set_xlabel(f"importance for {search.score}")
    for bar in axes.patches:
        bar.set_color(MAIN)
    for text in axes.texts:
        text.set_fontsize(8)
    axes.grid(False, axis="y")
    count = len(search.scored)
    caption = (
        f"How much each value's distribution among the best tenth of the {count} trials that have a score differs from that among all of "
        "them (PED-ANOVA; the shares add up to 1). Trials that were stopped early count with what they had reached, failed ones don't."
        + (f" With fewer than {TELLING} trials it is a hint at most." if count < TELLING else "")
    )
    return Chart(name, title, caption, figure, "importances.csv")


def parallel_coordinates(search: Search) -> Chart:
    """A line a trial through all that was searched."""
    name, title = "parallel_coordinates", "Parallel coordinates"
    if reason := search.why_not():
        return Chart(name, title, reason)
    from matplotlib.collections import LineCollection
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    names = search.varied()
    with of_optuna():
        axes = plot_parallel_coordinate(search.study, params=names, target=_score, target_name=search.score)
    (lines,) = (found for found in axes.collections if isinstance(found, LineCollection))
    few = len(search.scored) < 100
    lines.set(cmap=scale(), linewidth=1.2 if few else 0.7, alpha=0.9 if few else 0.5)
    axes.set_title("")
    axes.grid(False)
    figure = _sized(axes, min(11.5, max(8.0, 0.85 * (len(names) + 2))), 4.4)
    for each in figure.axes:
        _plain_ticks(each)
    for label in axes.get_xticklabels():
        label.set(rotation=330, ha="left", rotation_mode="anchor", fontsize=8)
    caption = (
        f"A line a trial, through its {search.score} on the left and the values it was given; the darker, the better. "
        "“None”: a value that this trial's schedule doesn't have. Trials that "
        "were stopped early count with what they had reached, failed ones are not drawn."
    )
    return Chart(name, title, caption, figure, "trials.csv")


def _plain_ticks(axes: Axes) -> None:
    """One of the parallel axes: few labels, each legible over the lines."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.grid(False)
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(which="both", colors=INK, labelsize=8)
    for label in axes.get_yticklabels():
        label.set_bbox({"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6})
    axes.spines["right"].set_visible(True)  # where the axis is
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def front(search: Search) -> Chart:
    """Score against FLOPs."""
    name, title = "pareto_front", f"{search.results.task.heading} against FLOPs"
    if not search.two:
        return Chart(
            name, title,
            "Left out: FLOPs were not an objective of this sweep. Those of the full path are the backbone's own whatever was searched; a sweep with --objectives recall@1,flops (for a classifier top@1,flops) scores the routed path and "
            "searches for the front.",
        )  # fmt: skip
    if not search.scored:
        return Chart(name, title, "Left out: no trial has a score.")
    from optuna.visualization.matplotlib import plot_pareto_front

    with of_optuna():
        axes = plot_pareto_front(
            search.study,
            targets=lambda trial: (trial.values[1] / 1e9, trial.values[0]),
            target_names=["GFLOPs of an image's inference through the routed path", search.score],
        )
    restyle(axes)
    figure = _sized(axes, 7, 4)
    best = axes.collections[-1]  # Optuna draws the front last
    for drawn in axes.collections:
        drawn.set(color=STOPPED, label="beaten by another")
    best.set(color=ACCENT, zorder=3, label="on the front")
    points = sorted(
        ((record.flops or 0.0) / 1e9, record.best or 0.0, record.number) for record in search.results.front_trials()
    )
    for flops, score, number in points:
        axes.annotate(str(number), (flops, score), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.step(
        [flops for flops, *_ in points],
        [score for _, score, _ in points],
        "--",
        where="post",
        color=ACCENT,
        linewidth=1,
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    caption = "Trials on the front, with their numbers: no other has as high a score for as few FLOPs. Stopped trials count with what they had reached."
    return Chart(name, title, caption, figure, "pareto_front.csv")


def _sized(axes: Axes, width: float, height: float) -> Figure:
    """The figure that Optuna has drawn, in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(width, height)
    return figure
