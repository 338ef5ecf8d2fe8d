"""The precision of matrix products and convolutions, decided in this file only.

| a recipe's precision | on a CPU | on a GPU |
| --- | --- | --- |
| float32 | float32 | float32 with TF32 |
| bfloat16 | bfloat16 in training, float32 at inference | bfloat16 |
| auto | float32 | bfloat16 if the GPU has it, else float32 |

That is the precision of a model. Routers, losses and metrics are computed in full float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from dfml.recipe import PrecisionName


def in_training(precision: PrecisionName, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the format of products in training."""
    if precision == "auto":
        # Without emulation, which is slower than float32.
        has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if has_it else "float32"
    return precision


def autocast(precision: PrecisionName, device: torch.device) -> torch.autocast:
    """Return a context for the forward pass of a model in training."""
    half = in_training(precision, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


@contextmanager
def inference(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Set the precision of a model that embeds or classifies; on a CPU, nothing is set."""
    if device.type == "cpu":
        yield
        return
    with tf32(allowed=True), autocast(precision, device):
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in products and convolutions of float32, and restore what was set.

    TF32 is a format of GPUs' tensor cores: the range of float32 with the ten bits of float16, and
    ten times as fast on an H100. torch's defaults are no TF32 in products, but TF32 in
    convolutions. CPUs compute the same with and without.
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
