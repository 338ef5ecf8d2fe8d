"""Errors of a worker: whether they would happen again, and the reason in the trial's record."""

from __future__ import annotations

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import CollectiveTimeoutError

from dfml.errors import InvalidInput
from dfml.train.training import TrainingDiverged
from orchestration.trials.failure import NonRetryableError, raise_non_retryable, why_not_retryable


def raised(act: object) -> Exception:
    try:
        act()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_torchs_own_out_of_memory_on_the_host_is_final() -> None:
    error = raised(lambda: torch.empty(2**55, dtype=torch.uint8))
    assert "out of memory on the host" in str(why_not_retryable(error))
    assert "lower batch_size" in str(why_not_retryable(error))


def test_pythons_own_out_of_memory_is_final() -> None:
    error = raised(lambda: bytearray(2**60))
    assert isinstance(error, MemoryError)
    assert "out of memory on the host" in str(why_not_retryable(error))


def test_onednns_out_of_memory_is_final() -> None:
    reason = str(why_not_retryable(RuntimeError("could not create a primitive")))
    assert reason.startswith("probably out of memory on the host: lower batch_size")
    assert "oneDNN" in reason


def test_out_of_memory_on_a_gpu_is_final() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert "out of memory on the GPU" in str(why_not_retryable(error))


@pytest.mark.parametrize(
    "error",
    [
        # Messages of CUDA and NCCL, each with its own error class; taken from their documentation.
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.distributed.DistBackendError("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'"),
    ],
)
def test_out_of_memory_that_cuda_reports_otherwise_is_final_too(error: Exception) -> None:
    reason = str(why_not_retryable(error))
    assert reason.startswith("out of memory on the GPU: lower batch_size")
    assert "TORCH_USE_CUDA_DSA" not in reason


def test_a_sick_gpu_is_none_of_the_trials_doing() -> None:
    assert why_not_retryable(RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore")) is None
    assert why_not_retryable(RuntimeError("CUDA error: device-side assert triggered")) is not None


@pytest.mark.parametrize(
    "error",
    [TrainingDiverged("the loss is nan"), InvalidInput("no such file"), KeyError("a slip"), ValueError("a slip")],
)
def test_what_would_come_again_is_final(error: Exception) -> None:
    assert why_not_retryable(error) is not None
    with pytest.raises(NonRetryableError, match=r"the loss is nan|no such file|a slip"), raise_non_retryable():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("by peer"),
        TimeoutError("S3"),
        EOFError(),
        RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:24567"),
        torch.distributed.DistBackendError("NCCL error: unhandled system error"),
        ActorDiedError(),
        CollectiveTimeoutError("a barrier"),
    ],
)
def test_what_a_retry_may_mend_passes_as_it_is(error: Exception) -> None:
    assert why_not_retryable(error) is None
    with pytest.raises(type(error)), raise_non_retryable():
        raise error
