"""What routed inference costs beside dense inference."""

from __future__ import annotations

import time

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import compare_with_dense, take_turns
from benchmarks.gpu.models import BASE, CNN, SMALL, dense_backbone, factorized, images_for, placed

BATCH = 128
# Of the time that is left, the part for one model in one precision.
SHARE = 1 / 6


@torch.inference_mode()
def check_inference(context: Context) -> None:
    """Time the routed and the full path beside the dense model."""
    sizes = context.sizes
    for name, title in ((sizes.small, SMALL), (sizes.base, BASE), (sizes.cnn, CNN)):
        _check_model(context, name, title)


def _check_model(context: Context, name: str, title: str) -> None:
    sizes, device = context.sizes, context.device
    dense = dense_backbone(name, sizes.image).eval()
    ours = placed(factorized(dense, name), device)
    dense = placed(dense, device)
    images = images_for(name, BATCH if context.cuda else sizes.batch, sizes.image, device)
    runs = {
        "dense": lambda: dense(images),
        "full": lambda: ours(images, "full"),
        "routed": lambda: ours(images, "routed"),
    }
    for precision in ("bf16", "fp32"):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = take_turns(runs, sizes, time.monotonic() + SHARE * context.seconds_left())
            compare_with_dense(context.report, f"{title} {precision}", found, len(images))
