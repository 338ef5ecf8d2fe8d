"""The routed path skips empty sub-blocks, and saves the FLOPs of sub-blocks not chosen."""

from __future__ import annotations

import pytest
import timm
import torch
from backbones import BACKBONES, ROUTERS
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dfml import factorize


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("sparse", [False, True], ids=["exact", "sparse"])
@pytest.mark.parametrize("name", BACKBONES)
def test_sub_blocks_that_nothing_goes_through_have_gradient_0(name: str, sparse: bool, precision: torch.dtype) -> None:
    """All ties go to the first sub-block; the parameters of the others still get gradients."""
    backbone = factorize(BACKBONES[name](), ROUTERS[name])
    backbone.sparse = sparse
    for router in backbone.routers():
        nn.init.zeros_(router.weight)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        both = backbone(torch.randn(2, 3, 32, 32), "both")
    assert not both.routing.tokens[:, 1:].any()
    (both.routed.float().square().sum() + both.distance).backward()
    gradients = {n: parameter.grad for n, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    for parameter_name, gradient in gradients.items():
        if parameter_name.endswith("_sum.bias"):  # (K, C)
            assert gradient[0].any()
            assert not gradient[1:].any()


@pytest.mark.integration
@torch.inference_mode()
def test_routed_inference_takes_less_than_45_percent_of_the_flops() -> None:
    """ViT-S at 224 px, K = 3, by torch's counter, with attention as its two matrix products."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    backbone, images = factorize(model, 3).eval(), torch.randn(2, 3, 224, 224)
    counts = []
    for run in (model, lambda x: backbone(x, "full"), lambda x: backbone(x, "routed")):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run(images)
        counts.append(counter.get_total_flops())
    dense, full, routed = counts
    assert full == dense
    assert 0.4 < routed / dense < 0.45
