"""The same bits from the same seed on GPUs, where sums are otherwise added in any order."""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Choose deterministic algorithms; call it before the first work on a GPU.

    They are slower. An operation that has none raises a `RuntimeError` that names it.
    """
    # cuBLAS reads this when it starts. With one of two settings, torch takes it for deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
