"""The messages that a trial sends to Ray Tune in the driver, and their form as Tune's results.

Tune's results are flat dictionaries with keys of their own; only this file knows the layout of a
message in them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dfml.task import BEST_SCORE, SCORE

KIND = "message"  # the key whose value names the message's class


@dataclass(frozen=True)
class WorkersStarted:
    """All workers of a trial have started.

    Attributes:
        workers: the number of workers.
        restart_reason: the reason for a restart; None for the first start.
        parts: the parts of a batch on each worker.
        loader_workers: the processes per worker that decode images.
    """

    workers: int
    restart_reason: str | None
    parts: int = 1
    loader_workers: int = 0


@dataclass(frozen=True)
class WorkersEnded:
    """All workers of a trial have ended; the trial ends too, or its workers start again.

    Attributes:
        worker_seconds: worker seconds since the previous message.
    """

    worker_seconds: float


@dataclass(frozen=True)
class EpochReport:
    """An epoch of a trial has ended.

    Attributes:
        metrics: metrics of the epoch (see `dfml.train.Training.epochs`).
        resumed: whether the run that this one resumes has reported the epoch.
        s3_bytes: bytes fetched from S3 by all workers since the previous message; in a worker's own
            report, since it started.
        worker_seconds: worker seconds since the previous message; 0 in a worker's own report.
    """

    metrics: dict[str, Any]
    resumed: bool
    s3_bytes: int
    worker_seconds: float = 0.0


@dataclass(frozen=True)
class Traffic:
    """Bytes fetched from S3 after the last epoch's report; as in `EpochReport`."""

    s3_bytes: int
    worker_seconds: float = 0.0


@dataclass(frozen=True)
class TrialFailed:
    """The trial ends without another attempt.

    Attributes:
        reason: the reason, in one line.
        unfit: whether its own recipe is the reason: the loss diverged, memory ran out, or the code
            raised an unknown error.
    """

    reason: str
    unfit: bool


Message = WorkersStarted | WorkersEnded | EpochReport | Traffic | TrialFailed
CLASSES: dict[str, type[Any]] = {
    each.__name__: each for each in (WorkersStarted, WorkersEnded, EpochReport, Traffic, TrialFailed)
}


def result_of(message: Message) -> dict[str, Any]:
    """Return a message as a result for Ray Train or Tune.

    The values that Tune itself reads (`epoch`, `score`, `best_score`) get keys of their own.
    """
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    read = {}
    if isinstance(message, EpochReport):
        read = {name: message.metrics[name] for name in ("epoch", SCORE, BEST_SCORE) if name in message.metrics}
    return {KIND: type(message).__name__, **values, **read}


def message_in(result: dict[str, Any]) -> Message | None:
    """Return the message in one of Tune's results; None if Tune made the result itself."""
    if result.get(KIND) not in CLASSES:
        return None
    found = CLASSES[result[KIND]]
    message: Message = found(**{field.name: result[field.name] for field in fields(found)})
    return message
