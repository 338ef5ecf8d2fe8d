"""Optuna's charts of a sweep: history, parameter importance, parallel coordinates, Pareto front.

Optuna leaves out pruned trials, which are most trials of a sweep with ASHA. Here a stopped trial
counts with its best score so far, as in the choice of the winner and in the sampler's study of two
objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestration.report.results import Results
from orchestration.report.style import ACCENT, FAINT, INK, MAIN, STOPPED, Chart, of_optuna, restyle, scale
from orchestration.search.objectives import ObjectiveName
from orchestration.search.space import SearchSpace
from orchestration.sweep_folder.records import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# PED-ANOVA compares the best tenth of the scored trials with all of them: from 11 trials on, the
# tenth is more than one trial.
FEWEST = 11
# From 50 trials on, the tenth has five; below, Optuna warns that importances are unstable.
MIN_SCORED_TRIALS = 50


class Search:
    """A sweep's trials as a study for Optuna's charts.

    Args:
        results: the results of the sweep.
        space: the search space.
        objectives: the objectives of the sweep.
    """

    def __init__(self, results: Results, space: SearchSpace, objectives: tuple[ObjectiveName, ...]) -> None:
        self.results = results
        self.study = _study(results, space, objectives)
        self.score = f"{results.scored_on} {results.task.heading}"
        self.has_flops = "flops" in objectives
        self.scored = [trial for trial in self.study.get_trials(deepcopy=False) if trial.values is not None]

    def varied(self) -> list[str]:
        """Return the parameters with more than one value among the scored trials."""
        values: dict[str, set[object]] = {}
        for trial in self.scored:
            for name, value in trial.params.items():
                values.setdefault(name, set()).add(value)
        return [name for name, taken in values.items() if len(taken) > 1]

    def target(self) -> Callable[[FrozenTrial], float] | None:
        """Return the target of importances; None: the only objective.

        With two objectives Optuna needs a target, and takes a lower value as better.
        """
        return (lambda trial: -trial.values[0]) if self.has_flops else None

    def importances(self) -> dict[str, float]:
        """Return each varied parameter's importance by PED-ANOVA.

        It is the parameter's share in the difference between the best tenth of the scored trials
        and all of them.
        """
        from optuna.importance import get_param_importances

        with of_optuna():
            return get_param_importances(self.study, params=self.varied(), target=self.target())

    def why_not(self) -> str | None:
        """Return why trials can't be compared; None if they can."""
        if len(self.scored) < 2:
            return (
                "Not shown: needs at least 2 scored trials (this sweep has "
                f"{len(self.scored)} among its {len(self.results.trials)} trials)."
            )
        if not self.varied():
            return "Not shown: all scored trials have the same configuration."
        return None

    def why_no_importances(self) -> str | None:
        """Return why there are no importances; None if there are."""
        if reason := self.why_not():
            return reason
        if len(self.scored) < FEWEST:
            return f"Not shown: needs at least {FEWEST} scored trials (this sweep has {len(self.scored)})."
        if len({trial.values[0] for trial in self.scored}) == 1:
            return "Not shown: all scores are equal, so nothing distinguishes the best trials."
        return None


def _study(results: Results, space: SearchSpace, objectives: tuple[ObjectiveName, ...]) -> Study:
    from orchestration.search.study import SweepStudy

    def counted(record: TrialRecord) -> TrialRecord:
        reached = record.state == "stopped" and record.best is not None
        return record.model_copy(update={"state": "finished"}) if reached else record

    return SweepStudy(space, objectives, map(counted, results.trials)).study


def _score(trial: FrozenTrial) -> float:
    return trial.values[0]


def history(search: Search) -> Chart:
    """Draw each trial's score by number, and the best score so far."""
    name, title = "optimization_history", "Optimization history"
    if not search.scored:
        return Chart(name, title, "Not shown: no trial has a score.")
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization.matplotlib import plot_optimization_history

    # With one objective and no target, Optuna also draws the best score so far.
    target = _score if search.has_flops else None
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
    caption = "Each trial's best score; stopped trials have the best score until then." + (
        f" {failed} trial(s) without a score are not shown." if failed else ""
    )
    return Chart(name, title, caption, figure, "trials.csv")


def importances(search: Search) -> Chart:
    """Draw the importance of each parameter for the score."""
    name, title = "importances", "Parameter importance"
    if reason := search.why_no_importances():
        return Chart(name, title, reason)
    from optuna.visualization.matplotlib import plot_param_importances

    names = search.varied()
    with of_optuna():
        axes = plot_param_importances(search.study, params=names, target=search.target(), target_name=search.score)
    restyle(axes)
    figure = _sized(axes, 7, 1.2 + 0.27 * len(names))
    if legend := axes.get_legend():
        legend.remove()  # the axis label is enough
    axes.set_ylabel("")
    axes.set_xlabel(f"importance for {search.score}")
    for bar in axes.patches:
        bar.set_color(MAIN)
    for text in axes.texts:
        text.set_fontsize(8)
    axes.grid(False, axis="y")
    count = len(search.scored)
    caption = (
        f"How much each parameter's distribution among the best tenth of the {count} scored trials differs from its "
        "distribution among all of them (PED-ANOVA; the shares add up to 1). Stopped trials count with their best "
        "score until then; failed trials are not counted."
        + (f" With fewer than {MIN_SCORED_TRIALS} trials this is only a hint." if count < MIN_SCORED_TRIALS else "")
    )
    return Chart(name, title, caption, figure, "importances.csv")


def parallel_coordinates(search: Search) -> Chart:
    """Draw one line per trial through all searched parameters."""
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
        f"One line per trial, through its {search.score} on the left and its sampled values; the darker, the better. "
        "“None”: a parameter that the trial's schedule doesn't have. Stopped trials count with their best score until "
        "then; failed trials are not shown."
    )
    return Chart(name, title, caption, figure, "trials.csv")


def _plain_ticks(axes: Axes) -> None:
    """Give one of the parallel axes few labels, each legible over the lines."""
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
    axes.spines["right"].set_visible(True)  # the axis is on the right
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def front(search: Search) -> Chart:
    """Draw the score against FLOPs."""
    name, title = "pareto_front", f"{search.results.task.heading} against FLOPs"
    if not search.has_flops:
        return Chart(
            name,
            title,
            "Not shown: FLOPs were not an objective of this sweep. The full path of every trial has the backbone's "
            "FLOPs; a sweep with --objectives recall@1,flops (top@1,flops for a classifier) scores the routed path and "
            "searches for the front.",
        )
    if not search.scored:
        return Chart(name, title, "Not shown: no trial has a score.")
    from optuna.visualization.matplotlib import plot_pareto_front

    with of_optuna():
        axes = plot_pareto_front(
            search.study,
            targets=lambda trial: (trial.values[1] / 1e9, trial.values[0]),
            target_names=["GFLOPs per image of routed inference", search.score],
        )
    restyle(axes)
    figure = _sized(axes, 7, 4)
    best = axes.collections[-1]  # Optuna draws the front last
    for drawn in axes.collections:
        drawn.set(color=STOPPED, label="dominated")
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
    caption = (
        "Trials on the front have their numbers: no other trial has as high a score with as few FLOPs. Stopped trials "
        "count with their best score until then."
    )
    return Chart(name, title, caption, figure, "pareto_front.csv")


def _sized(axes: Axes, width: float, height: float) -> Figure:
    """Return the figure of Optuna's axes, resized to `width` by `height` inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(width, height)
    return figure
