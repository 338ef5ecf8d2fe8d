"""Conversion between timm's dense layout of weights and the layout of the publication's models.

In the published layout, which the publication's `convert.py` writes, sub-block k = 1 … K of block b
is, for C channels, H/K head outputs and M/K hidden units per sub-block:

    blocks.<b>.attn.qkv<k>   (3·H/K, C)   queries, keys and values, concatenated
    blocks.<b>.attn.proj<k>  (C, H/K)     bias: 1/K of the dense bias
    blocks.<b>.mlp<k>.fc1    (M/K, C)
    blocks.<b>.mlp<k>.fc2    (C, M/K)     bias: 1/K of the dense bias
    blocks.<b>.attn.gate     (K, C)       router of the attention
    blocks.<b>.gate          (K, C)       router of the MLP

A freshly converted file has no routers.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

State = dict[str, Tensor]
_QKV = re.compile(r"blocks\.\d+\.attn\.qkv(\d+)\.weight")


def sub_blocks_in(state: State) -> int | None:
    """Return the K of a state in the published layout; None for a state in another layout."""
    return max((int(found[1]) for name in state if (found := _QKV.fullmatch(name))), default=None)


def to_published(dense: State, num_sub_blocks: int) -> State:
    """Convert a dense ViT's state to the published layout; only attention and MLP are changed."""
    state: State = {}
    for name, tensor in dense.items():
        found = re.fullmatch(r"(blocks\.\d+\.)(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)", name)
        if found is None:
            state[name] = tensor
            continue
        for k, part in enumerate(_cut(tensor, found[2], found[3], num_sub_blocks), start=1):
            inner = found[2].replace("mlp.", f"mlp{k}.") if "mlp" in found[2] else f"{found[2]}{k}"
            state[f"{found[1]}{inner}.{found[3]}"] = part.contiguous().clone()
    return state


def _cut(tensor: Tensor, layer: str, kind: str, num_sub_blocks: int) -> list[Tensor]:
    if layer in ("attn.proj", "mlp.fc2"):
        return (
            list(tensor.chunk(num_sub_blocks, dim=1))
            if kind == "weight"
            else [tensor / num_sub_blocks] * num_sub_blocks
        )
    if layer == "mlp.fc1":
        return list(tensor.chunk(num_sub_blocks))
    parts = [part.chunk(num_sub_blocks) for part in tensor.chunk(3)]  # of queries, keys, values
    return [torch.cat([part[k] for part in parts]) for k in range(num_sub_blocks)]


def from_published(state: State) -> tuple[State, State]:
    """Convert a state in the published layout to timm's dense layout.

    Returns:
        The dense state; and the tensors that it can't represent, under their names in
        `FactorizedViT`: the sub-blocks' biases (K, C) and, if the file has them, the routers.
    """
    num_sub_blocks = sub_blocks_in(state)
    assert num_sub_blocks is not None
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
        layer_of = [f"{block}{layer}{k}{'.' + inner if inner else ''}.{kind}" for k in range(1, num_sub_blocks + 1)]
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
