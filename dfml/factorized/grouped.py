"""Linear layers of chosen sub-blocks as grouped matrix products, for routed inference on GPUs.

The number of tokens of each sub-block stays on the device, where `torch.nn.functional.grouped_mm`
reads it, so the host doesn't wait. M tokens, K sub-blocks; "by sub-block" as in `sub_blocks.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.factorized.router import Routing
from dfml.factorized.sub_blocks import SubBlockSum, cast_for_autocast

# The rows of its operands must begin at multiples of as many values: 16 bytes in bfloat16.
ALIGNED = 8


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing) -> Tensor:
    """Apply the part of a layer that belongs to each token's chosen sub-block.

    Args:
        x: the input (M, C), by sub-block.
        weight: the weight (K·P, C), whose rows are cut into K parts.
        bias: the bias (K·P,); None: no bias.
        routing: the routing.

    Returns:
        The outputs (M, P), by sub-block.
    """
    K = routing.p.shape[-1]
    return _grouped(x, weight.unflatten(0, (K, -1)).mT, None if bias is None else bias.view(K, -1), routing)


def grouped_sum(layer: SubBlockSum, h_chosen: Tensor, routing: Routing) -> Tensor:
    """Return the chosen a_k (M, C) in the tokens' order, from their h (M, P) by sub-block."""
    K = len(layer.bias)
    weight = layer.weight.unflatten(1, (K, -1)).permute(1, 2, 0)  # (K, P, C)
    return _grouped(h_chosen, weight, layer.bias, routing).index_select(0, routing.inverse)


def _grouped(x: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing) -> Tensor:
    x, weight = cast_for_autocast(x, weight)
    y = F.grouped_mm(x, weight, offs=routing.ends)
    if bias is None:
        return y
    return y + bias.to(y.dtype).index_select(0, routing.chosen.index_select(0, routing.order))


def is_grouped_faster(x: Tensor) -> bool:
    """Return whether x is on a GPU and the precision is bfloat16, as grouped products require."""
    if not x.is_cuda:
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    return dtype == torch.bfloat16
