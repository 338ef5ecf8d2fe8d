"""Failures of a trial: whether another attempt may help, and the reason for the trial's record.

An error that would happen again ends its trial at once. After the loss of a worker, a node, a
connection or the storage, the trial resumes from its last checkpoint. If memory ran out, it resumes
with less (`memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayError
from ray.train import TrainingFailedError, WorkerGroupError

from dfml.errors import InvalidInput, RunFailed
from orchestration.trials.error_words import (
    GPU,
    GPU_MEMORY,
    HOST_MEMORY,
    LOST_PEER,
    LOW_ON_MEMORY,
    PROBABLY_GPU_MEMORY,
    PROBABLY_HOST_MEMORY,
    SICK_OR_BUSY_GPU,
    VANISHED,
    WRONG_ON_GPU,
    gpu_line,
    line_with,
)

if TYPE_CHECKING:
    # Workers import this file and need nothing else of Tune.
    from ray.tune.experiment import Trial

Memory = Literal["GPU", "host"]

LESS_MEMORY = "lower batch_size or image_size, or set activation_checkpointing"


class Failure(NamedTuple):
    """A failed training.

    Attributes:
        reason: the reason in one line.
        retryable: whether another attempt may help.
        unfit: whether the trial's own recipe is the reason, so that the search should avoid it.
        memory: the memory that ran out, or may have run out if `retryable`; None: neither.
    """

    reason: str
    retryable: bool
    unfit: bool = False
    memory: Memory | None = None

    @property
    def final_reason(self) -> str:
        """Return the reason for the record of a trial that this failure ends."""
        ran_out = self.memory is not None and not self.retryable
        return f"{self.reason}, even with one image at a time; {LESS_MEMORY}" if ran_out else self.reason


class NonRetryableError(RuntimeError):
    """An error of a worker that would happen again.

    Args:
        failure: what it is classified as; its reason is the error's text.
    """

    def __init__(self, failure: Failure) -> None:
        # The argument itself, so that the error can be pickled.
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.reason


@contextmanager
def mark_non_retryable() -> Iterator[None]:
    """Turn an error of a worker's train loop that would happen again into a `NonRetryableError`.

    Raises:
        NonRetryableError: memory ran out (CUDA or host), the loss is no longer a number, an input
            can't be used, or the code is wrong. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        failure = classify(error)
        if failure.retryable:
            raise
        raise NonRetryableError(failure) from error


def classify(error: Exception) -> Failure:
    """Classify an error of a worker's train loop.

    Only what is known to come from a lost machine or connection, or from a broken or busy GPU, is
    retryable: an unknown error would probably happen again, and each attempt costs up to an epoch.
    """
    import torch

    from dfml.train.training import TrainingDiverged
    from orchestration.cluster.ray_internals import RayTrainError

    text = str(error).strip()
    name = type(error).__name__
    if line_with(GPU, text) and (failure := _gpu_failure(text, name)):
        return failure
    if isinstance(error, MemoryError) or line_with(HOST_MEMORY, text):
        cause = line_with(HOST_MEMORY, text) or _last_line(text)
        return _out_of_memory("host", cause or "this process gets no more memory")
    if line := line_with(PROBABLY_HOST_MEMORY, text):
        return _out_of_memory("host", line, probably=True)
    if isinstance(error, TrainingDiverged):
        return _unfit(_last_line(text))
    if isinstance(error, InvalidInput | RunFailed):
        # Such as a damaged image or a full disk: with any recipe the trial would end like this.
        return Failure(_last_line(text), retryable=False)
    # Ray's own errors come from the actor through which workers report; its node may be lost.
    lost = isinstance(error, OSError | EOFError | torch.distributed.DistError | RayError | RayTrainError)
    if lost or (isinstance(error, RuntimeError) and line_with(LOST_PEER, text)):
        cause = gpu_line(text) or next(iter(text.splitlines()), "")
        return Failure(f"{name}: {cause}", retryable=True)
    return _unfit(f"{name}: {gpu_line(text) or _last_line(text)}")


def _gpu_failure(text: str, name: str) -> Failure | None:
    """Classify an error of CUDA or its libraries; None if it is none of the known ones."""
    if line := line_with(GPU_MEMORY, text):
        return _out_of_memory("GPU", line)
    if line := line_with(PROBABLY_GPU_MEMORY, text):
        return _out_of_memory("GPU", line, probably=True)
    if line := line_with(WRONG_ON_GPU, text):
        return _unfit(f"{name}: {gpu_line(text) or line}")
    if line := line_with(SICK_OR_BUSY_GPU, text):
        return Failure(f"{name}: {line}", retryable=True)
    return None


def training_failure(error: TrainingFailedError) -> Failure:
    """Classify the failure of a trial's training.

    One worker's non-retryable error decides: the other workers fail because of it. Without one,
    the failure is retryable unless Ray says that memory ran out.
    """
    if not isinstance(error, WorkerGroupError):
        return Failure(_first_line(getattr(error, "controller_failure", error)), retryable=True)
    failures = sorted(error.worker_failures.items())
    for _, failure in failures:
        if isinstance(failure, NonRetryableError):
            return failure.failure
    # Ray wraps the error by which it noticed the loss of a worker; of a hang it knows no worker.
    if not failures:
        return Failure(f"{type(error).__name__}: {_last_line(str(error))}", retryable=True)
    causes = [(rank, getattr(failure, "health_check_failure", failure)) for rank, failure in failures]
    for rank, cause in causes:
        if isinstance(cause, OutOfMemoryError) or line_with(LOW_ON_MEMORY, str(cause)):
            return _out_of_memory("host", f"Ray killed worker {rank}")
        # Memory may run out in Ray's own part of a worker, beside the train loop.
        if isinstance(cause, MemoryError):
            return _out_of_memory("host", f"in worker {rank}")
    rank, cause = causes[0]
    vanished = any(line_with(VANISHED, str(cause)) for _, cause in causes)
    return Failure(f"worker {rank}: {_first_line(cause)}", retryable=True, memory="host" if vanished else None)


def process_failure(trial: Trial) -> str:
    """Return in one line the exception that ended a trial's own process.

    It is read from the file that Tune has just written on this machine; the copy in the storage
    may not exist yet.
    """
    if trial.pickled_error_file is None or not Path(trial.pickled_error_file).exists():
        return _last_line(Path(trial.error_file).read_text()) if trial.error_file else "unknown"
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    error = getattr(error, "cause", None) or error  # RayTaskError → ControllerError
    error = getattr(error, "controller_failure", None) or error
    return f"{type(error).__name__}: {_last_line(str(error))}"


def _out_of_memory(memory: Memory, cause: str, probably: bool = False) -> Failure:
    reason = f"{'probably ' if probably else ''}out of memory on the {memory} ({cause})"
    return Failure(reason, retryable=False, unfit=True, memory=memory)


def _unfit(reason: str) -> Failure:
    return Failure(reason, retryable=False, unfit=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
