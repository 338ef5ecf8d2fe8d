"""The versions, the machine, and what its GPU reaches at best."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision

from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import median_seconds, tf32
from benchmarks.gpu.report import Report

SHARED_MEMORY = Path("/dev/shm")
# Of a copy and of a product, whose median counts.
TIMES = 5


def check_environment(context: Context) -> None:
    """Report versions, the machine, and the ceilings that its GPU reaches."""
    report = context.report
    _note_versions(report)
    shared = shutil.disk_usage(SHARED_MEMORY).free / 1e9 if SHARED_MEMORY.exists() else None
    report.note("machine", {"cores": context.cores, "dev_shm_GB": None if shared is None else round(shared, 1)})
    _note_faiss(report)
    defaults = {
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    report.note("TF32 as torch has it", defaults)
    if context.cuda:
        card = torch.cuda.get_device_properties(0)
        memory = f"{card.total_memory / 2**30:.0f} GiB"
        nccl = torch.cuda.nccl.version()
        report.note("card", f"{card.name}, {card.multi_processor_count} multiprocessors, {memory}, NCCL {nccl}")
    report.figure("copies", _copied_bytes_per_second(context) / 1e12, "TB/s read and written")
    n = context.sizes.matrix
    for name, dtype, allowed in (
        ("bf16", torch.bfloat16, True),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        with tf32(allowed):
            seconds = _product_seconds(n, dtype, context.device)
        report.figure(f"matrix product {name}", 2 * n**3 / seconds / 1e12, "TFLOP/s")
    if context.cuda:
        torch.cuda.empty_cache()


def _note_versions(report: Report) -> None:
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    report.note("versions", versions)


def _note_faiss(report: Report) -> None:
    try:
        import faiss
    except ImportError as error:
        report.skip("faiss", f"not there: {error}")
        return
    # The package for CPUs has no such function.
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    report.note("faiss", f"{faiss.__version__}, {gpus} GPUs")


def _copied_bytes_per_second(context: Context) -> float:
    a = torch.empty(context.sizes.copied_bytes // 4, dtype=torch.float32, device=context.device).uniform_()
    b = torch.empty_like(a)
    b.copy_(a)
    return 2 * a.numel() * 4 / median_seconds(lambda: b.copy_(a), TIMES)


def _product_seconds(n: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return median_seconds(lambda: torch.mm(a, b), TIMES)
