"""Errors of a worker: whether they would happen again, and the reason in the trial's record."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train import NCCLHangError, WorkerGroupError
from ray.train.v2._internal.exceptions import CollectiveTimeoutError
from torch.utils.data import DataLoader, Dataset

from dfml.errors import InvalidInput, RunFailed
from dfml.train.training import TrainingDiverged
from orchestration.trials.failure import Failure, NonRetryableError, classify, mark_non_retryable, training_failure

# What torch adds to each error of CUDA, in this order (older versions have the first and the last).
ADVICE = (
    "Search for `cudaErrorUnknown' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more "
    "information.",
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.",
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1",
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
)
OUT_OF_GPU_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 2.44 MiB is "
    "free. Including non-PyTorch memory, this process has 79.10 GiB memory in use. Of the allocated memory 77.52 GiB "
    "is allocated by PyTorch, and 901.09 MiB is reserved by PyTorch but unallocated."
)
ALLOCATOR = (
    " If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to "
    "avoid fragmentation.  See documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
    "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)
OUTSIDE = "CUDA ran out of memory outside PyTorch's allocator."
CUBLAS = "CUDA error: CUBLAS_STATUS_{} when calling `cublasCreate(handle)`"


def cuda(error: str) -> Exception:
    """Return an error of CUDA as torch raises it."""
    return RuntimeError("\n".join((f"CUDA error: {error}", *ADVICE)))


def nccl(error: str, kind: str, last: str | None) -> Exception:
    """Return an error of NCCL as torch raises it; `last` is NCCL's last warning."""
    detail = "Last error: Unknown NCCL Error\n" if last is None else f"Last error:\n{last}"
    source = "/pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690"
    text = f"NCCL error in: {source}, {error}, NCCL version 2.30.7\n{kind}\n{detail}"
    return torch.distributed.DistBackendError(text)


def nccl_of_cuda(last: str) -> Exception:
    unhandled = "unhandled cuda error (run with NCCL_DEBUG=INFO for details)"
    return nccl(unhandled, "ncclUnhandledCudaError: Call to CUDA function failed.", last)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (torch.OutOfMemoryError(OUT_OF_GPU_MEMORY + ALLOCATOR), OUT_OF_GPU_MEMORY),
        (cuda("out of memory"), "CUDA error: out of memory"),
        (RuntimeError("CUDA driver error: out of memory"), "CUDA driver error: out of memory"),
        (RuntimeError(OUTSIDE), OUTSIDE),
        (RuntimeError(CUBLAS.format("ALLOC_FAILED")), CUBLAS.format("ALLOC_FAILED")),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        ),
        (nccl_of_cuda("Cuda failure 2 'out of memory'"), "Cuda failure 2 'out of memory'"),
        (nccl_of_cuda("Cuda failure 'out of memory'"), "Cuda failure 'out of memory'"),
        (nccl_of_cuda("Failed to CUDA calloc 6291456 bytes"), "Failed to CUDA calloc 6291456 bytes"),
        (nccl_of_cuda("Failed to CUDA calloc async 608 bytes"), "Failed to CUDA calloc async 608 bytes"),
    ],
)
def test_out_of_memory_on_a_gpu_has_many_spellings(error: Exception, shown: str) -> None:
    assert classify(error) == Failure(f"out of memory on the GPU ({shown})", False, unfit=True, memory="GPU")


@pytest.mark.parametrize(
    "text", [CUBLAS.format("NOT_INITIALIZED"), "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"], ids=["cuBLAS", "cuDNN"]
)
def test_a_library_that_cant_start_probably_lacks_memory(text: str) -> None:
    expected = Failure(f"probably out of memory on the GPU ({text})", False, unfit=True, memory="GPU")
    assert classify(RuntimeError(text)) == expected


def raised(act: Callable[[], object]) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


class Images(Dataset[int]):
    """Images that end the process that decodes them."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.end = end

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        self.end()
        return index


def decoding(end: Callable[[], object]) -> Callable[[], object]:
    return lambda: list(DataLoader(Images(end), num_workers=1, multiprocessing_context="fork"))


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (raised(lambda: torch.empty(2**55, dtype=torch.uint8)), "can't allocate memory: you tried to allocate 36028"),
        (raised(lambda: bytearray(2**60)), "(this process gets no more memory)"),
        (OSError(12, "Cannot allocate memory"), "([Errno 12] Cannot allocate memory)"),
        (RuntimeError("std::bad_alloc"), "(std::bad_alloc)"),
        (
            RuntimeError("unable to mmap 67108864 bytes from file </torch_7_8_9>: Cannot allocate memory (12)"),
            "unable to",
        ),
        (RuntimeError("unable to write to file </torch_7_8_9>: No space left on device (28)"), "No space left on"),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
                "are out of shared memory. Please try to raise your shared memory limit."
            ),
            "(DataLoader worker (pid 7) is killed by signal: Bus error. It is possible",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "(DataLoader worker (pid 7) is killed by signal: Killed.)",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
            "(cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED)",
        ),
        (nccl_of_cuda("Failed to CUDA host alloc 1024 bytes"), "(Failed to CUDA host alloc 1024 bytes)"),
        (
            nccl("unhandled system error", "ncclSystemError: …", "Failed to malloc 64 bytes"),
            "(Failed to malloc 64 bytes)",
        ),
    ],
)
def test_so_has_out_of_memory_on_the_host(error: Exception, shown: str) -> None:
    found = classify(error)
    assert found == Failure(found.reason, False, unfit=True, memory="host")
    assert found.reason.startswith("out of memory on the host (")
    assert shown in found.reason
    assert "\n" not in found.reason


def test_a_process_that_decodes_and_is_killed_probably_lacks_memory() -> None:
    found = classify(raised(decoding(lambda: os.kill(os.getpid(), signal.SIGKILL))))
    assert found == Failure(found.reason, False, unfit=True, memory="host")
    assert found.reason.startswith("probably out of memory on the host (DataLoader worker (pid(s) ")


def test_one_whose_decoding_finds_no_memory_says_so() -> None:
    found = classify(raised(decoding(lambda: bytearray(2**60))))
    assert found == Failure("out of memory on the host (MemoryError)", False, unfit=True, memory="host")


@pytest.mark.parametrize(
    "text",
    [
        "could not create a primitive",
        "could not create a memory object",
        "can't start new thread",
        "Unknown error: Failed to launch worker thread: Resource temporarily unavailable",
        "libfoo.so: failed to map segment from shared object",
    ],
)
def test_many_errors_on_the_host_name_no_cause(text: str) -> None:
    expected = Failure(f"probably out of memory on the host ({text})", False, unfit=True, memory="host")
    assert classify(RuntimeError(text)) == expected


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (cuda("uncorrectable ECC error encountered"), "CUDA error: uncorrectable ECC error encountered"),
        (
            cuda("uncorrectable NVLink error detected during the execution"),
            "CUDA error: uncorrectable NVLink error detected during the execution",
        ),
        (
            cuda("Invalid access of peer GPU memory over nvlink or a hardware error"),
            "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error",
        ),
        (cuda("hardware stack error"), "CUDA error: hardware stack error"),
        (cuda("unspecified launch failure"), "CUDA error: unspecified launch failure"),
        (cuda("unknown error"), "CUDA error: unknown error"),
        (cuda("no CUDA-capable device is detected"), "CUDA error: no CUDA-capable device is detected"),
        (RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available"),
        (
            RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing …"),
            "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing …",
        ),
        (nccl_of_cuda("Cuda failure 999 'unknown error'"), "Cuda failure 999 'unknown error'"),
        (
            nccl("unhandled system error", "ncclSystemError: …", "nvmlDeviceGetP2PStatus() failed: GPU is lost"),
            "nvmlDeviceGetP2PStatus() failed: GPU is lost",
        ),
        # The same error in CUDA 10 and 13.
        (
            cuda("all CUDA-capable devices are busy or unavailable"),
            "CUDA error: all CUDA-capable devices are busy or unavailable",
        ),
        (
            cuda("CUDA-capable device(s) is/are busy or unavailable"),
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        ),
        (
            cuda("exclusive-thread device already in use by a different thread"),
            "CUDA error: exclusive-thread device already in use by a different thread",
        ),
        (cuda("system not yet initialized"), "CUDA error: system not yet initialized"),
    ],
)
def test_a_sick_or_busy_gpu_is_none_of_the_trials_doing(error: Exception, shown: str) -> None:
    assert classify(error) == Failure(f"{type(error).__name__}: {shown}", retryable=True)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (cuda("device-side assert triggered"), "CUDA error: device-side assert triggered"),
        (cuda("an illegal memory access was encountered"), "CUDA error: an illegal memory access was encountered"),
        (cuda("an illegal instruction was encountered"), "CUDA error: an illegal instruction was encountered"),
        (cuda("misaligned address"), "CUDA error: misaligned address"),
        # Of errors that aren't known, too, the first line is shown.
        (cuda("invalid configuration argument"), "CUDA error: invalid configuration argument"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM\nmore"), "cuDNN error: CUDNN_STATUS_BAD_PARAM"),
        (
            nccl_of_cuda("Cuda failure 700 'an illegal memory access was encountered'"),
            "Cuda failure 700 'an illegal memory access was encountered'",
        ),
        (
            nccl(
                "invalid usage (run with NCCL_DEBUG=WARN for details)",
                "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.",
                "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
            ),
            "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
        ),
    ],
)
def test_a_wrong_program_on_a_gpu_is_final(error: Exception, shown: str) -> None:
    assert classify(error) == Failure(f"{type(error).__name__}: {shown}", retryable=False, unfit=True)


@pytest.mark.parametrize(
    "error",
    [TrainingDiverged("the loss is nan"), InvalidInput("no such file"), KeyError("a slip"), ValueError("a slip")],
)
def test_what_would_come_again_is_final(error: Exception) -> None:
    assert not classify(error).retryable
    with pytest.raises(NonRetryableError, match=r"the loss is nan|no such file|a slip"), mark_non_retryable():
        raise error


REMOTE = "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
CLOSED = "socketProgress: Connection closed by remote peer node-2<44321>"
WATCHDOG = (
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 1800083 "
    "milliseconds before timing out."
)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ConnectionResetError("by peer"), "by peer"),
        (TimeoutError("S3"), "S3"),
        (EOFError(), ""),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:24567"),
            "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:24567",
        ),
        (nccl("remote process exited or there was a network error", REMOTE, CLOSED), CLOSED),
        (torch.distributed.DistBackendError(WATCHDOG), WATCHDOG),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1."), "NCCL communicator was"),
        (nccl("unhandled system error", "ncclSystemError: System call failed.", None), "NCCL error in: /pytorch/torch"),
        (ActorDiedError(), "The actor"),
        (CollectiveTimeoutError("a barrier"), "a barrier"),
    ],
)
def test_what_a_retry_may_mend_passes_as_it_is(error: Exception, shown: str) -> None:
    found = classify(error)
    assert (found.retryable, found.memory) == (True, None)
    assert found.reason.startswith(f"{type(error).__name__}: {shown}")
    with pytest.raises(type(error)), mark_non_retryable():
        raise error


def test_a_hang_that_ray_finds_is_retryable() -> None:
    found = training_failure(NCCLHangError("no rank has called an operation for 600 s", {}))
    assert found == Failure("NCCLHangError: no rank has called an operation for 600 s", retryable=True)


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
    assert str(sent) == classify(error).reason
    failure = training_failure(WorkerGroupError("", {1: sent}))
    assert failure == classify(error)
    assert failure.unfit == unfit


def test_a_trial_that_memory_ends_says_what_to_change() -> None:
    final = classify(torch.OutOfMemoryError("CUDA out of memory.")).final_reason
    assert final == (
        "out of memory on the GPU (CUDA out of memory.), even with one image at a time; "
        "lower batch_size or image_size, or set activation_checkpointing"
    )
    assert classify(InvalidInput("an image is damaged")).final_reason == "an image is damaged"
