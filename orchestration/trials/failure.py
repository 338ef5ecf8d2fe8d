"""Failures of a trial: whether another attempt may help, and the reason for the trial's record.

An error that would happen again ends its trial at once. After the loss of a worker, a node, a
connection or the storage, the trial resumes from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayError
from ray.train import TrainingFailedError, WorkerGroupError

from dfml.errors import InvalidInput, RunFailed

if TYPE_CHECKING:
    # Workers import this file and need nothing else of Tune.
    from ray.tune.experiment import Trial

LESS_MEMORY = "lower batch_size or image_size, or raise gradient_accumulation"
# Messages of torch's CPU allocator and of other libraries that pass on the system's ENOMEM.
NO_HOST_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "std::bad_alloc")
# oneDNN names no cause; if the same step has run before, it is a lack of memory.
NO_PRIMITIVE = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")
# Messages of CUDA and its libraries that torch doesn't turn into its own error.
NO_GPU_MEMORY = ("out of memory", "alloc_failed", "host_allocation_failed")
# Messages of a broken or lost GPU: the trial may succeed on another one.
SICK_GPU = ("ecc error", "no cuda-capable device", "fallen off the bus", "cuda error: unknown error")
# Messages of errors that a rank raises because another rank is lost.
LOST_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket", "broken pipe", "timed out")


class Failure(NamedTuple):
    """A failed training.

    Attributes:
        reason: the reason in one line.
        retryable: whether another attempt may help.
        unfit: whether the trial's own recipe is the reason, so that the search should avoid it.
    """

    reason: str
    retryable: bool
    unfit: bool = False


class NonRetryableError(RuntimeError):
    """An error that would happen again; its text is the reason in the trial's record.

    Args:
        reason: the reason.
        unfit: as in `Failure`.
    """

    def __init__(self, reason: str, unfit: bool) -> None:
        # All arguments, so that it can be pickled.
        super().__init__(reason, unfit)
        self.reason = reason
        self.unfit = unfit

    def __str__(self) -> str:
        return self.reason


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
        raise NonRetryableError(failure.reason, failure.unfit) from error


def classify(error: Exception) -> Failure:
    """Classify an error of a worker's train loop.

    Only what is known to come from a lost machine or connection is retryable: an unknown error
    would probably happen again, and each attempt costs up to an epoch.
    """
    import torch

    from dfml.train.training import TrainingDiverged
    from orchestration.cluster.ray_internals import RayTrainError

    text = str(error).strip()
    last = _last_line(text)
    cuda = "cuda" in text.lower() or "cublas" in text.lower() or "cudnn" in text.lower()
    if isinstance(error, torch.OutOfMemoryError) or (cuda and any(words in text.lower() for words in NO_GPU_MEMORY)):
        return _unfit(f"out of memory on the GPU: {LESS_MEMORY} ({text.splitlines()[0]})")
    if cuda and any(words in text.lower() for words in SICK_GPU):
        return Failure(_first_line(error), retryable=True)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in NO_HOST_MEMORY):
        return _unfit(f"out of memory on the host: {LESS_MEMORY} ({last or 'this process gets no more memory'})")
    if any(words in text.lower() for words in NO_PRIMITIVE):
        return _unfit(f"probably out of memory on the host: {LESS_MEMORY} (oneDNN: {last})")
    if isinstance(error, TrainingDiverged):
        return _unfit(last)
    if isinstance(error, InvalidInput | RunFailed):
        # Such as a damaged image or a full disk: with any recipe the trial would end like this.
        return Failure(last, retryable=False)
    # Ray's own errors come from the actor through which workers report; its node may be lost.
    lost = isinstance(error, OSError | EOFError | torch.distributed.DistError | RayError | RayTrainError)
    if lost or (isinstance(error, RuntimeError) and any(words in text.lower() for words in LOST_PEER)):
        return Failure(_first_line(error), retryable=True)
    return _unfit(f"{type(error).__name__}: {last}")


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
            return Failure(failure.reason, retryable=False, unfit=failure.unfit)
    for rank, failure in failures:
        if isinstance(failure, OutOfMemoryError) or "low on memory" in str(failure):
            return _unfit(f"out of memory on the host, Ray killed worker {rank}: {LESS_MEMORY}")
        # Memory may run out in Ray's own part of a worker, beside the train loop.
        if isinstance(getattr(failure, "health_check_failure", None), MemoryError):
            return _unfit(f"out of memory on the host, in worker {rank}: {LESS_MEMORY}")
    rank, failure = failures[0]
    return Failure(f"worker {rank}: {_first_line(getattr(failure, 'health_check_failure', failure))}", retryable=True)


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


def _unfit(reason: str) -> Failure:
    return Failure(reason, retryable=False, unfit=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
