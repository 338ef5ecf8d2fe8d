"""The words by which errors of CUDA, its libraries, oneDNN, gloo, torch and Ray are recognized.

They are in lower case and otherwise as in the libraries: from `cudaGetErrorString` of CUDA 13, the
status names of cuBLAS 13 and cuDNN 9, and the messages in NCCL 2.30, torch 2.14 and Ray 2.60.
"""

from __future__ import annotations

from itertools import pairwise

# The names of CUDA and its libraries: an error without any of them isn't a GPU's.
GPU = ("cuda", "cublas", "cudnn", "cusolver", "nccl")

GPU_MEMORY = (
    # CUDA, torch's allocator, and NCCL: Cuda failure 2 'out of memory'
    "out of memory",
    # torch, if cuDNN has no memory for a kernel
    "cuda ran out of memory",
    # cuBLAS, cuSOLVER, and cuDNN until version 8
    "status_alloc_failed",
    # cuDNN from version 9
    "device_allocation_failed",
    # NCCL, after CUDA's reason
    "failed to cuda calloc",
)
# A library can't create its handle. Neither names a cause; it is usually that the GPU is full.
PROBABLY_GPU_MEMORY = ("cublas_status_not_initialized when calling `cublascreate", "cudnn_status_not_initialized")

HOST_MEMORY = (
    # torch's allocator
    "can't allocate memory",
    # the system's ENOMEM, passed on by Python and by libraries
    "cannot allocate memory",
    # C++
    "std::bad_alloc",
    # cuDNN and NCCL
    "host_allocation_failed",
    "failed to cuda host alloc",
    "failed to malloc",
    # torch's DataLoader: the kernel has killed one of its processes, or /dev/shm is full.
    "is killed by signal: killed",
    "out of shared memory",
    "unable to allocate shared memory",
    "unable to write to file </torch_",
)
PROBABLY_HOST_MEMORY = (
    # oneDNN names no cause; if the same step has run before, it is a lack of memory.
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory",
    # Python, C++ and the dynamic linker have no memory for a thread's stack or a library. (Threads
    # may also be limited in number; fewer processes that decode help then, too.)
    "can't start new thread",
    "resource temporarily unavailable",
    "failed to map segment from shared object",
    # torch's DataLoader outside the main thread, as in Ray's workers, doesn't know the signal.
    "dataloader worker (pid(s)",
)

# The program or its input is wrong, so it would fail again. So would most illegal accesses: what a
# kernel reads and writes follows from shapes, and these from the recipe.
WRONG_ON_GPU = (
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "misaligned address",
    # NCCL, for example if two ranks use one GPU
    "ncclinvalidusage",
    "ncclinvalidargument",
)

# The GPU is broken, lost, or used by others: the trial may succeed on another one, or later.
SICK_OR_BUSY_GPU = (
    "uncorrectable ecc error encountered",
    "uncorrectable nvlink error detected",
    "over nvlink or a hardware error",
    "hardware stack error",
    # The errors that are left when CUDA knows no cause. It does for most wrong programs.
    "unspecified launch failure",
    "cuda error: unknown error",
    "'unknown error'",  # NCCL
    # torch, at the first use of the GPU
    "cuda unknown error",
    "no cuda gpus are available",
    "no cuda-capable device is detected",
    # NVML and the driver
    "gpu is lost",
    "fallen off the bus",
    # "CUDA-capable device(s) is/are …", in older versions "all CUDA-capable devices are …"
    "busy or unavailable",
    "already in use by a different thread",
    "system not yet initialized",
)

# Another rank is lost. NCCL's other errors have a class of torch's own, by which they are known.
LOST_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket", "broken pipe", "timed out")

# Ray has killed a process.
LOW_ON_MEMORY = ("low on memory",)
# Ray doesn't know why a process has ended, and names the kernel's OOM killer as a possible cause.
VANISHED = ("killed by the oom killer",)

# The first line of a GPU's error; further lines advise how to debug any error.
GPU_ERRORS = ("cuda error", "cuda driver error", "cuda unknown error", "cudnn error", "cudnn frontend error")
# The end of torch's message on the GPU's memory, the same in each.
ADVICE = " If reserved but unallocated memory is large"
# The line before the cause in NCCL's errors.
NCCL_CAUSE = "last error:"


def line_with(words: tuple[str, ...], text: str) -> str | None:
    """Return the first line of a text that contains one of the words, without torch's advice.

    None if there is no such line.
    """
    found = (line for line in text.splitlines() if any(word in line.lower() for word in words))
    line = next(found, None)
    return None if line is None else line.partition(ADVICE)[0].strip()


def gpu_line(text: str) -> str | None:
    """Return the line of a GPU's error that names the cause; None if it isn't a GPU's error."""
    lines = [line.strip() for line in text.splitlines()]
    for line, following in pairwise(lines):
        if line.lower() == NCCL_CAUSE:
            return following
    return line_with(GPU_ERRORS, text)
