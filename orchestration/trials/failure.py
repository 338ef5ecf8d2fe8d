"""Which errors in a worker end its trial at once: those that would come again.

A lost worker, node, connection or storage is none of them: such a trial goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dfml.errors import InvalidInput

LESS_MEMORY = "lower batch_size or image_size, or raise gradient_accumulation"
# Of torch's CPU allocator, and of other libraries that pass on the system's ENOMEM.
NO_HOST_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "std::bad_alloc")
# oneDNN says no more than this, whatever it lacked; where the same step has run before, that is memory.
NO_PRIMITIVE = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")
# Of CUDA and its libraries where torch doesn't say it in its own way.
NO_GPU_MEMORY = ("out of memory", "alloc_failed", "host_allocation_failed")
# A card that is broken or gone: another may do.
SICK_GPU = ("ecc error", "no cuda-capable device", "fallen off the bus", "cuda error: unknown error")
# What a rank raises because another has gone.
LOST_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket", "broken pipe", "timed out")


class Final(RuntimeError):
    """An error that would come again; its text is the reason that the trial's record gives."""


@contextmanager
def told_apart() -> Iterator[None]:
    """Turns an error of a worker's train loop that would come again into `Final`; others pass.

    Raises:
        Final: out of memory (CUDA or host), a loss that is no longer a number, input that can't be used, a mistake in the code.
    """
    try:
        yield
    except Exception as error:
        reason = reason_of(error)
        if reason is None:
            raise
        raise Final(reason) from error


def reason_of(error: Exception) -> str | None:
    """Why an error is final, in a line; None where a retry may help."""
    import torch
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    from dfml.train.training import TrainingDiverged

    text = str(error).strip()
    last = text.splitlines()[-1] if text else ""
    cuda = "cuda" in text.lower() or "cublas" in text.lower() or "cudnn" in text.lower()
    if isinstance(error, torch.OutOfMemoryError) or (cuda and any(words in text.lower() for words in NO_GPU_MEMORY)):
        return f"out of memory on the GPU: {LESS_MEMORY} ({text.splitlines()[0]})"
    if cuda and any(words in text.lower() for words in SICK_GPU):
        return None
    if isinstance(error, MemoryError) or any(words in text.lower() for words in NO_HOST_MEMORY):
        return f"out of memory on the host: {LESS_MEMORY} ({last or 'no more is given to this process'})"
    if any(words in text.lower() for words in NO_PRIMITIVE):
        return f"out of memory on the host, it seems: {LESS_MEMORY} (oneDNN: {last})"
    if isinstance(error, TrainingDiverged | InvalidInput):
        return last
    # Ray's own come from what workers report through, an actor that may have lain on a lost node.
    lost = isinstance(error, OSError | EOFError | torch.distributed.DistError | RayError | RayTrainError)
    if lost or (isinstance(error, RuntimeError) and any(words in text.lower() for words in LOST_PEER)):
        return None
    return f"{type(error).__name__}: {last}"
