"""The layout of weights that the publication's `convert.py` writes, and its models have; to and from timm's dense layout.

Sub-block k = 1 … K of block b, for C channels, H/K head outputs and M/K hidden units a sub-block:

    blocks.<b>.attn.qkv<k>   (3·H/K, C)   its queries, keys and values one after another
    blocks.<b>.attn.proj<k>  (C, H/K)     bias: a K-th of the dense one
    blocks.<b>.mlp<k>.fc1    (M/K, C)
    blocks.<b>.mlp<k>.fc2    (C, M/K)     bias: a K-th of the dense one
    blocks.<b>.attn.gate, blocks.<b>.gate  (K, C)   routers of attention and MLP; not in a freshly converted file
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

State = dict[str, Tensor]
_QKV = re.compile(r"blocks\.\d+\.attn\.qkv(\d+)\.weight")


def routers_in(state: State) -> int | None:
    """The K of a state in the published layout; None for one in another layout."""
    return max((int(found[1]) for name in state if (found := _QKV.fullmatch(name))), default=None)


def to_published(dense: State, routers: int) -> State:
    """A dense ViT's state in the published layout; everything but the blocks' attention and MLP stays as it is."""
    state: State = {}
    for name, tensor in dense.items():
        found = re.fullmatch(r"(blocks\.\d+\.)(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)", name)
        if found is None:
            state[name] = tensor
            continue
        for k, part in enumerate(_cut(tensor, found[2], found[3], routers), start=1):
            inner = found[2].replace("mlp.", f"mlp{k}.") if "mlp" in found[2] else f"{found[2]}{k}"
            state[f"{found[1]}{inner}.{found[3]}"] = part.contiguous().clone()
    return state


def _cut(tensor: Tensor, layer: str, kind: str, routers: int) -> list[Tensor]:
    if layer in ("attn.proj", "mlp.fc2"):
        return list(tensor.chunk(routers, dim=1)) if kind == "weight" else [tensor / routers] * routers
    if layer == "mlp.fc1":
        return list(tensor.chunk(routers))
    parts = [part.chunk(routers) for part in tensor.chunk(3)]  # of queries, keys, values
    return [torch.cat([part[k] for part in parts]) for k in range(routers)]


def from_published(state: State) -> tuple[State, State]:
    """A state in the published layout as timm's dense one, and what that can't say of the sub-blocks.

    Returns:
        The dense state; and, by the names of `FactorizedViT`, the sub-blocks' own biases (K, C) and the routers where the file
        has them.
    """
    routers = routers_in(state)
    assert routers is not None
    dense: State = {}
    own: State = {}
    pattern = re.compile(r"(blocks\.\d+\.)(attn\.qkv|attn\.proj|mlp)(\d+)(?:\.(fc1|fc2))?\.(weight|bias)")
    for name, tensor in state.items():
        found = pattern.fullmatch(name)
        if found is None:
            gate = re.fullmatch(r"(blocks\.\d+\.)(attn\.)?gate\.weight", name)
            if gate is None:
                dense[name] = tensor
            else:
                own[f"{gate[1]}{'attn' if gate[2] else 'mlp'}_router.weight"] = tensor
            continue
        block, layer, number, inner, kind = found.groups()
        if number != "1":
            continue
        layer_of = [f"{block}{layer}{k}{'.' + inner if inner else ''}.{kind}" for k in range(1, routers + 1)]
        parts = [state[part] for part in layer_of]
        dense_name = f"{block}{layer}{'.' + inner if inner else ''}.{kind}"
        if layer == "attn.qkv":
            thirds = [part.chunk(3) for part in parts]
            dense[dense_name] = torch.cat([third[i] for i in range(3) for third in thirds])
        elif inner == "fc1":
            dense[dense_name] = torch.cat(parts)
        elif kind == "weight":
            dense[dense_name] = torch.cat(parts, dim=1)
        else:
            dense[dense_name] = torch.stack(parts).sum(dim=0)
            own[f"{block}{'attn' if layer == 'attn.proj' else 'mlp'}_sum.bias"] = torch.stack(parts)
    return dense, own
