"""The cost of a sweep: hours, bytes, restarts, each trial's time, and epochs saved by stopping."""

from __future__ import annotations

from typing import NamedTuple

from rich.filesize import decimal

from orchestration.callbacks.live_table import duration
from orchestration.report.reproductions import Reproduction
from orchestration.report.results import Results
from orchestration.report.style import FAINT, GRID, MAIN, SERIES, Chart
from orchestration.report.tables import hours_shown
from orchestration.sweep_folder.records import TrialRecord


class Times(NamedTuple):
    """The parts of a trial's wall-clock time in seconds; 0 if its record doesn't have them."""

    waiting: float  # until its workers ran
    training: float
    validation: float
    other: float  # starting workers, checkpoints, scoring on the test images, lost epochs

    @property
    def total(self) -> float:
        return sum(self)


def times(record: TrialRecord, copied: bool = False) -> Times:
    """Split a trial's wall-clock time.

    Args:
        record: the record of a trial or of a run of the winner.
        copied: whether the run trained nothing (see `Results.is_copy`); its epochs don't count.
    """
    epochs = [] if copied else record.epochs
    training = sum(metrics.get("train_seconds", 0.0) for metrics in epochs)
    validation = sum(metrics.get("validation_seconds", 0.0) for metrics in epochs)
    if record.began is None or record.ended is None:
        return Times(0.0, training, validation, 0.0)
    waiting = max(0.0, record.workers_started - record.began) if record.workers_started is not None else 0.0
    rest = record.ended - record.began - record.paused - waiting - training - validation
    return Times(waiting, training, validation, max(0.0, rest))


def cost_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: the search, the winner's runs, their total."""
    search, runs, earlier = results.trials, results.runs, results.earlier_runs
    groups: list[tuple[str, list[TrialRecord | Reproduction], list[TrialRecord]]] = [
        ("search", [*search], search),
        ("winner's runs", [*results.reproductions], runs),
    ]
    if earlier:
        groups.append(("runs of earlier winners", [*earlier], earlier))
    groups.append(("total", [each for _, takers, _ in groups for each in takers], [*search, *runs, *earlier]))
    rows = []
    for name, takers, records in groups:
        copied = [results.is_copy(record) for record in records]
        clock = sum(times(record, copy).total for record, copy in zip(records, copied, strict=True))
        rows.append(
            [
                f"{name} ({len(takers)})",
                hours_shown(sum(taker.cpu_hours for taker in takers)),
                hours_shown(sum(taker.gpu_hours for taker in takers)),
                decimal(sum(taker.s3_bytes for taker in takers)),
                duration(clock),
                str(sum(len(record.epochs) for record, copy in zip(records, copied, strict=True) if not copy)),
                str(sum(record.restarts for record in records)),
                str(sum(record.repeated_epochs for record in records)),
            ]
        )
    return [
        "",
        "CPU hours",
        "GPU hours",
        "from S3",
        "wall clock, summed",
        "epochs",
        "restarts",
        "epochs repeated",
    ], rows


def saved_in_words(results: Results, epochs: int) -> str:
    """Return a sentence on the epochs that stopping trials early saved.

    Args:
        results: the results of the sweep.
        epochs: the number of epochs of a trial that isn't stopped.
    """
    stopped = [record for record in results.trials if record.state == "stopped"]
    if not stopped:
        return "No trial was stopped early."
    spared = sum(epochs - len(record.epochs) for record in stopped)
    whole = epochs * len(results.trials)
    by_asha = sum(record.reason is None for record in stopped)
    return (
        f"{len(stopped)} of {len(results.trials)} trials were stopped early ({by_asha} by ASHA), which saved {spared} "
        f"of the {whole} epochs of all trials ({spared / whole:.0%})."
    )


def elapsed_in_words(results: Results) -> str:
    """Return a sentence on the sweep's duration; empty if the records have no times."""
    began = [record.began for record in results.trials if record.began is not None]
    ended = [record.ended for record in [*results.trials, *results.runs] if record.ended is not None]
    if not began or not ended:
        return ""
    return (
        f"The sweep took {duration(max(ended) - min(began))} from the first trial's start to the end of the winner's "
        "runs, pauses between sessions included."
    )


def time_of_trials(results: Results) -> Chart:
    """Draw each trial's wall-clock time."""
    name, title = "time_of_trials", "Wall-clock time of each trial"
    spent = [times(record) for record in results.trials]
    if not sum(each.total for each in spent):
        return Chart(name, title, "Not shown: the records have no times.")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    numbers = [record.number for record in results.trials]
    below = [0.0] * len(spent)
    colors = {"waiting": GRID, "training": MAIN, "validation": SERIES[1], "other": FAINT}
    for part, color in colors.items():
        minutes = [getattr(each, part) / 60 for each in spent]
        label = "start, checkpoints, restarts" if part == "other" else part
        axes.bar(numbers, minutes, bottom=below, width=0.8 if len(spent) < 60 else 1.0, color=color, label=label)
        below = [a + b for a, b in zip(below, minutes, strict=True)]
    axes.set_xlabel("trial")
    axes.set_ylabel("minutes")
    axes.grid(False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Chart(
        name,
        title,
        "Time from each trial's start to its end, by activity, without pauses between sessions.",
        figure,
        "trials.csv",
    )
