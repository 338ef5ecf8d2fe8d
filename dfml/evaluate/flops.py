"""FLOPs of inference, counted by torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dfml.embedding_model import build_model
from dfml.recipe import Recipe


def count_flops(run: Callable[[], object]) -> int:
    """Count the FLOPs of a call; a multiply-add counts as two.

    Attention runs as plain matrix products: torch's counter doesn't know the CPU's fused kernel.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def routed_flops(recipe: Recipe) -> int:
    """Return the FLOPs to embed one image of test size through the routed path.

    The routers are random. Their choices hardly matter, since the sub-blocks of a block are alike.
    """
    size = recipe.test_size or recipe.image_size
    return _routed_flops(recipe.backbone, size, recipe.num_sub_blocks, recipe.blocks, recipe.embedding_size)


@cache
@torch.inference_mode()
def _routed_flops(backbone: str, size: int, num_sub_blocks: int, blocks: str, embedding_size: int | None) -> int:
    recipe = Recipe(
        backbone=backbone, image_size=size, num_sub_blocks=num_sub_blocks, blocks=blocks, embedding_size=embedding_size
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(recipe, load_weights=False).eval()
        images = torch.randn(1, 3, size, size)
    return count_flops(lambda: model.features(images, "routed"))
