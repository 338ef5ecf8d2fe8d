"""Errors of a worker: whether they would happen again, and the reason in the trial's record."""

from __future__ import annotations

import pickle

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import CollectiveTimeoutError

from dfml.errors import InvalidInput, RunFailed
from dfml.train.training import TrainingDiverged
from orchestration.trials.failure import Failure, NonRetryableError, classify, mark_non_retryable, training_failure


def raised(act: object) -> Exception:
    try:
        act()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_torchs_own_out_of_memory_on_the_host_is_final() -> None:
    error = raised(lambda: torch.empty(2**55, dtype=torch.uint8))
    assert "out of memory on the host" in classify(error).reason
    assert "lower batch_size" in classify(error).reason


def test_pythons_own_out_of_memory_is_final() -> None:
    error = raised(lambda: bytearray(2**60))
    assert isinstance(error, MemoryError)
    assert "out of memory on the host" in classify(error).reason


def test_onednns_out_of_memory_is_final() -> None:
    reason = classify(RuntimeError("could not create a primitive")).reason
    assert reason.startswith("probably out of memory on the host: lower batch_size")
    assert "oneDNN" in reason


def test_out_of_memory_on_a_gpu_is_final() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert "out of memory on the GPU" in classify(error).reason


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
    reason = classify(error).reason
    assert reason.startswith("out of memory on the GPU: lower batch_size")
    assert "TORCH_USE_CUDA_DSA" not in reason


def test_a_sick_gpu_is_none_of_the_trials_doing() -> None:
    assert classify(RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore")).retryable
    assert not classify(RuntimeError("CUDA error: device-side assert triggered")).retryable


@pytest.mark.parametrize(
    "error",
    [TrainingDiverged("the loss is nan"), InvalidInput("no such file"), KeyError("a slip"), ValueError("a slip")],
)
def test_what_would_come_again_is_final(error: Exception) -> None:
    assert not classify(error).retryable
    with pytest.raises(NonRetryableError, match=r"the loss is nan|no such file|a slip"), mark_non_retryable():
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
    assert classify(error).retryable
    with pytest.raises(type(error)), mark_non_retryable():
        raise error


@pytest.mark.parametrize(
    ("error", "unfit"),
    [
        (TrainingDiverged("the loss is nan"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (ValueError("a slip that this recipe meets"), True),
        (InvalidInput("an image is damaged"), False),
        (RunFailed("the disk is full"), False),
    ],
)
def test_the_search_avoids_a_recipe_only_if_the_recipe_is_the_reason(error: Exception, unfit: bool) -> None:
    with pytest.raises(NonRetryableError) as raised, mark_non_retryable():
        raise error
    sent = pickle.loads(pickle.dumps(raised.value))  # as Ray sends it
    assert (str(sent), sent.unfit) == (classify(error).reason, unfit)
    failure = training_failure(WorkerGroupError("", {1: sent}))
    assert failure == Failure(classify(error).reason, retryable=False, unfit=unfit)
