"""The precision of float32 products on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in products and convolutions of float32, and restore what was set.

    TF32 is the format of tensor cores: the range of float32 with the ten bits of float16, and ten
    times as fast on an H100. torch's defaults are no TF32 in products, but TF32 in convolutions.
    CPUs compute the same with and without.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    # Read through torch's newer names but set through the older ones, which set both: once only
    # the newer are set, torch refuses to read the older.
    before = products.fp32_precision == "tf32", convolutions.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    products.allow_tf32, convolutions.allow_tf32 = allowed, allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
