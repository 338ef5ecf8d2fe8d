"""The winner with several seeds: scores on the test classes, their mean and 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from dfml.protocol import PROTOCOLS
from orchestration.report.tables import shown_metrics
from orchestration.sweep_folder.records import TrialRecord
from orchestration.trials.outcome import Outcome

CONFIDENCE = 0.95


class Interval(BaseModel):
    """The mean of a metric over seeds and the 95 % interval of its expectation, by Student's t.

    Attributes:
        n: the number of seeds.
        mean: the mean of their scores.
        half_width: half the interval's width; the interval is mean ± half_width.
    """

    n: int
    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Return the interval's lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Return the interval's upper end."""
        return self.mean + self.half_width


def interval(values: Sequence[float]) -> Interval:
    """Return the interval of at least two scores, whose seeds were chosen without seeing scores."""
    from scipy.stats import t  # the import takes half a second

    n = len(values)
    error = float(np.std(values, ddof=1)) / n**0.5
    return Interval(n=n, mean=float(np.mean(values)), half_width=float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error)


def intervals(scores: Sequence[dict[str, float]]) -> dict[str, Interval]:
    """Return the interval of each metric; empty if there are fewer than two scores."""
    if len(scores) < 2:
        return {}
    return {name: interval([score[name] for score in scores]) for name in scores[0]}


class Reproduction(BaseModel):
    """The winner's recipe with one seed.

    Attributes:
        seed: the run's seed.
        epochs: the number of epochs after which the model was scored; None if the run failed.
        test: the metrics by name; empty if the run failed.
        reason: the reason why the run failed.
        cpu_hours: the CPU hours of the run's workers.
        gpu_hours: the GPU hours of the run's workers.
        s3_bytes: the bytes fetched from S3.
    """

    seed: int
    epochs: int | None = None
    test: dict[str, float] = {}
    reason: str | None = None
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    s3_bytes: int = 0

    @staticmethod
    def of(record: TrialRecord, outcome: Outcome | None) -> Reproduction:
        """Return the reproduction of an ended run of the winner; without an outcome it failed."""
        outcome_values = (
            {"reason": record.reason} if outcome is None else {"epochs": outcome.epochs, "test": outcome.test}
        )
        return Reproduction(
            seed=record.recipe.seed,
            cpu_hours=record.cpu_hours,
            gpu_hours=record.gpu_hours,
            s3_bytes=record.s3_bytes,
            **outcome_values,
        )


def over_seeds(reproductions: list[Reproduction]) -> dict[str, Interval]:
    """Return each metric's interval over the seeds with scores; empty for fewer than two."""
    return intervals([each.test for each in reproductions if each.test])


def reproduction_table(
    reproductions: list[Reproduction], interval: dict[str, Interval]
) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: one row per seed, the mean, and its 95 % interval's half width."""
    names = shown_metrics(next(each.test for each in reproductions if each.test))
    rows = []
    for each in reproductions:
        cells = [f"{each.test[name]:.3f}" for name in names] if each.test else [""] * len(names)
        rows.append([f"seed {each.seed}" if each.test else f"seed {each.seed} failed: {each.reason}", *cells])
    if interval:
        rows.append(["mean", *(f"{interval[name].mean:.3f}" for name in names)])
        rows.append(["95 % interval, ±", *(f"{interval[name].half_width:.3f}" for name in names)])
    return ["", *names.values()], rows


def in_words(reproductions: list[Reproduction], protocol: str) -> str:
    """Return a caption for the table: the seeds, the kept model, and under `paper` the bias."""
    scored = sum(bool(each.test) for each in reproductions)
    failed = len(reproductions) - scored
    return (
        f"The winner's recipe with {len(reproductions)} seeds"
        f"{f', of which {failed} failed and are not counted' if failed else ''}. "
        f"The kept model is the first seed's, {reproductions[0].seed}: keeping the best one would be selection on the "
        "test images."
        + (
            " The first one was selected by its score on them, so mean and interval are biased upwards."
            if PROTOCOLS[protocol].scores_on_test
            else ""
        )
    )
