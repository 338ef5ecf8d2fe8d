"""What a sweep took: processor hours, bytes, losses, each trial's time, and what stopping early saved."""

from __future__ import annotations

from typing import NamedTuple

from orchestration.live_table import duration
from orchestration.records import TrialRecord
from orchestration.results.reproductions import Reproduction
from orchestration.results.style import FAINT, GRID, MAIN, SERIES, Chart
from orchestration.results.summary import Results
from orchestration.results.tables import byte_size, hours_shown


class Times(NamedTuple):
    """How a trial's wall-clock time divides, seconds; 0 where its record doesn't say."""

    waiting: float  # until its workers ran
    training: float
    validation: float
    other: float  # starting workers, checkpoints, scoring on the test images, what was lost

    @property
    def total(self) -> float:
        return sum(self)


def times(record: TrialRecord, copied: bool = False) -> Times:
    """Of a trial, or a run of the winner; of one that trained nothing (`copied`, see `Results.is_copy`) its epoch isn't its own."""
    epochs = [] if copied else record.epochs
    training = sum(figures.get("train_seconds", 0.0) for figures in epochs)
    validation = sum(figures.get("validation_seconds", 0.0) for figures in epochs)
    if record.began is None or record.ended is None:
        return Times(0.0, training, validation, 0.0)
    waiting = max(0.0, record.placed - record.began) if record.placed is not None else 0.0
    rest = record.ended - record.began - record.paused - waiting - training - validation
    return Times(waiting, training, validation, max(0.0, rest))


def cost_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the search, the winner's runs, both."""
    search, runs, earlier = results.trials, results.runs, results.earlier_runs
    # Results of before runs were kept have their hours all the same.
    groups: list[tuple[str, list[TrialRecord | Reproduction], list[TrialRecord]]] = [
        ("search", [*search], search),
        ("winner's runs", [*results.reproductions], runs),
    ]
    if earlier:
        groups.append(("runs of earlier winners", [*earlier], earlier))
    groups.append(("together", [each for _, takers, _ in groups for each in takers], [*search, *runs, *earlier]))
    rows = []
    for name, takers, records in groups:
        copied = [results.is_copy(record) for record in records]
        clock = sum(times(record, copy).total for record, copy in zip(records, copied, strict=True))
        rows.append(
            [
                f"{name} ({len(takers)})",
                hours_shown(sum(taker.cpu_hours for taker in takers)),
                hours_shown(sum(taker.gpu_hours for taker in takers)),
                byte_size(sum(taker.s3_bytes for taker in takers)),
                duration(clock),
                str(sum(len(record.epochs) for record, copy in zip(records, copied, strict=True) if not copy)),
                str(sum(record.losses for record in records)),
                str(sum(record.repeated_epochs for record in records)),
            ]
        )
    return ["", "CPU hours", "GPU hours", "from S3", "wall clock, summed", "epochs", "losses", "epochs repeated"], rows


def saved_in_words(results: Results, epochs: int) -> str:
    """How many epochs were not run because trials were stopped.

    Args:
        results: of the sweep.
        epochs: of a trial that isn't stopped.
    """
    stopped = [record for record in results.trials if record.state == "stopped"]
    if not stopped:
        return "No trial was stopped early."
    spared = sum(epochs - len(record.epochs) for record in stopped)
    whole = epochs * len(results.trials)
    by_asha = sum(record.reason is None for record in stopped)
    return (
        f"{len(stopped)} of {len(results.trials)} trials were stopped early ({by_asha} by ASHA): {spared} of the {whole} epochs that all would have "
        f"taken were not run ({spared / whole:.0%})."
    )


def elapsed_in_words(results: Results) -> str:
    """From the first trial's start to the last one's end; empty where the records don't say."""
    began = [record.began for record in results.trials if record.began is not None]
    ended = [record.ended for record in [*results.trials, *results.runs] if record.ended is not None]
    if not began or not ended:
        return ""
    return f"From the first trial's start to the end of the winner's runs it was {duration(max(ended) - min(began))}, pauses between sessions included."


def time_of_trials(results: Results) -> Chart:
    """Each trial's wall-clock time."""
    name, title = "time_of_trials", "Wall-clock time of each trial"
    spent = [times(record) for record in results.trials]
    if not sum(each.total for each in spent):
        return Chart(name, title, "Left out: the records have no times.")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    numbers = [record.number for record in results.trials]
    below = [0.0] * len(spent)
    colours = {"waiting": GRID, "training": MAIN, "validation": SERIES[1], "other": FAINT}
    for part, colour in colours.items():
        minutes = [getattr(each, part) / 60 for each in spent]
        label = "start, checkpoints, losses" if part == "other" else part
        axes.bar(numbers, minutes, bottom=below, width=0.8 if len(spent) < 60 else 1.0, color=colour, label=label)
        below = [a + b for a, b in zip(below, minutes, strict=True)]
    axes.set_xlabel("trial")
    axes.set_ylabel("minutes")
    axes.grid(False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Chart(
        name,
        title,
        "From a trial's start to its end, pauses between sessions left out, and what it was spent on.",
        figure,
        "trials.csv",
    )
