"""The winner with several seeds: what each scored on the test classes, their mean and 95 % interval, as a table."""

from __future__ import annotations

from pydantic import BaseModel

from orchestration.records import TrialRecord
from orchestration.results.interval import Interval, intervals
from orchestration.results.tables import shown_metrics
from orchestration.trials.outcome import Outcome


class Reproduction(BaseModel):
    """The winner's recipe with one seed.

    Attributes:
        seed: of the run.
        epochs: after which the model was scored; None where the run failed.
        test: metrics by name; empty where the run failed.
        reason: why it failed.
        cpu_hours: as a trial's record has them; likewise gpu_hours and s3_bytes.
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
        """What came of a run of the winner that has ended."""
        figures = {"reason": record.reason} if outcome is None else {"epochs": outcome.epochs, "test": outcome.test}
        return Reproduction(
            seed=record.recipe["seed"],
            cpu_hours=record.cpu_hours,
            gpu_hours=record.gpu_hours,
            s3_bytes=record.s3_bytes,
            **figures,
        )


def over_seeds(reproductions: list[Reproduction]) -> dict[str, Interval]:
    """The interval of each metric over the seeds that have scores; none with less than two."""
    return intervals([each.test for each in reproductions if each.test])


def reproduction_table(
    reproductions: list[Reproduction], interval: dict[str, Interval]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a row a seed, then the mean and the half width of its 95 % interval."""
    names = shown_metrics(next(each.test for each in reproductions if each.test))
    rows = []
    for each in reproductions:
        figures = [f"{each.test[name]:.3f}" for name in names] if each.test else [""] * len(names)
        rows.append([f"seed {each.seed}" if each.test else f"seed {each.seed} failed: {each.reason}", *figures])
    if interval:
        rows.append(["mean", *(f"{interval[name].mean:.3f}" for name in names)])
        rows.append(["95 % interval, ±", *(f"{interval[name].half_width:.3f}" for name in names)])
    return ["", *names.values()], rows


def in_words(reproductions: list[Reproduction], protocol: str) -> str:
    """What the table is of, which of the models was kept, and by `paper`, which chose the first one by its score, what that means."""
    scored = sum(bool(each.test) for each in reproductions)
    failed = len(reproductions) - scored
    return (
        f"The winner's recipe with {len(reproductions)} seeds{f', of which {failed} failed and count for nothing here' if failed else ''}. "
        f"The model that is kept is the first seed's, {reproductions[0].seed}: to keep the best of them would be selection on the "
        "test images."
        + (
            " That one was chosen by its score on them, so mean and interval lean upwards."
            if protocol == "paper"
            else ""
        )
    )
