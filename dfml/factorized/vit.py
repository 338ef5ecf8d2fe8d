"""Factorized timm ViT and DeiT, including distilled DeiT (Wang et al., CVPR 2023).

Sub-block k of an attention has the heads kH/K … (k+1)H/K; sub-block k of an MLP has part k of K of
its hidden units. B images, N tokens, M = B·N, C channels, d channels per head, K sub-blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.errors import InvalidInput
from dfml.factorized.backbone import BlockOutput, FactorizedBackbone, FactorizedBlock, RoutingSums, compiled
from dfml.factorized.grouped import ALIGNED, grouped_linear, grouped_sum
from dfml.factorized.masked import MaskedOutput, factors, masked_distance, masked_sum
from dfml.factorized.router import Router, Routing
from dfml.factorized.sub_blocks import SubBlockSum, dot_with_sub_blocks, routed_linear, with_grad_p


class FactorizedViTBlock(FactorizedBlock):
    """x ← x + Σ_k r_k a_k(x); x ← x + Σ_k r_k m_k(x), with one router for each of the two sums."""

    def __init__(self, block: Block, num_sub_blocks: int) -> None:
        super().__init__()
        width = block.norm1.normalized_shape[0]
        self.norm1 = block.norm1
        self.attn_router = Router(width, num_sub_blocks)
        # timm's attention up to the concatenated heads; its projection moves to attn_sum.
        self.attn = block.attn
        self.attn_sum = SubBlockSum(block.attn.proj, num_sub_blocks)
        self.attn.proj = nn.Identity()
        self.attn_scale = block.ls1
        self.mlp_router = Router(width, num_sub_blocks)
        self.norm2 = block.norm2
        # timm's MLP up to the hidden activation; its second layer moves to mlp_sum.
        self.mlp = block.mlp
        self.mlp_sum = SubBlockSum(block.mlp.fc2, num_sub_blocks)
        self.mlp.fc2 = nn.Identity()
        self.mlp_scale = block.ls2
        self.num_sub_blocks = num_sub_blocks

    def full(self, x: Tensor) -> Tensor:
        return self._full_mlp(self._full_attention(x))

    def _full_attention(self, x: Tensor) -> Tensor:
        return x + self.attn_scale(self.attn_sum(self.attn(self.norm1(x))))

    def _full_mlp(self, x: Tensor) -> Tensor:
        return x + self.mlp_scale(self.mlp_sum(self.mlp(self.norm2(x))))

    def compile_methods(self) -> None:
        self._full_attention = compiled(self._full_attention)  # type: ignore[method-assign]
        self._full_mlp = compiled(self._full_mlp)  # type: ignore[method-assign]
        self.masked = compiled(self.masked)  # type: ignore[method-assign]

    def routed(self, x: Tensor) -> Tensor:
        z = self.norm1(x)
        x = x + self.attn_scale(self._attention(z, self.attn_router(z), exact=False)[0])
        # The MLP's router reads the stream before normalization, as in the published code.
        return x + self.mlp_scale(self._mlp(self.norm2(x), self.mlp_router(x), exact=False)[0])

    def both(self, full: Tensor, routed: Tensor, sparse: bool) -> BlockOutput:
        full = self._full_attention(full)
        z = self.norm1(routed)
        attention = self.attn_router(z)
        y, sub_block_outputs = self._attention(z, attention, exact=not sparse)
        routed = routed + self.attn_scale(y)
        distance = _distance(full, routed, sub_block_outputs, self.attn_scale, attention)
        full = self._full_mlp(full)
        mlp = self.mlp_router(routed)
        y, sub_block_outputs = self._mlp(self.norm2(routed), mlp, exact=not sparse)
        routed = routed + self.mlp_scale(y)
        distance = distance + _distance(full, routed, sub_block_outputs, self.mlp_scale, mlp)
        return BlockOutput(full, routed, distance, *RoutingSums.of(attention, mlp))

    def masked(self, streams: Tensor, sparse: bool) -> MaskedOutput:
        images = len(streams) // 2
        z = self.norm1(streams)
        attention = self.attn_router(z[images:])
        hidden = self.attn(z)
        y = masked_sum(self.attn_sum, hidden, factors(attention, sparse))
        streams = streams + self.attn_scale(y)
        distance = _masked_distance(streams, hidden, self.attn_sum, self.attn_scale, attention, sparse)
        mlp = self.mlp_router(streams[images:])
        hidden = self.mlp(self.norm2(streams))
        y = masked_sum(self.mlp_sum, hidden, factors(mlp, sparse))
        streams = streams + self.mlp_scale(y)
        distance = distance + _masked_distance(streams, hidden, self.mlp_sum, self.mlp_scale, mlp, sparse)
        return MaskedOutput(streams, distance, (attention.p, mlp.p), (attention.onehot, mlp.onehot))

    def routed_static(self, x: Tensor) -> Tensor:
        attn, mlp, K = self.attn, self.mlp, self.num_sub_blocks
        if any(n % ALIGNED for n in (x.shape[-1], attn.attn_dim // K, mlp.fc1.out_features // K)):
            return self.routed(x)
        z = self.norm1(x)
        x = x + self.attn_scale(self._grouped_attention(z, self.attn_router(z)))
        routing = self.mlp_router(x)
        tokens = self.norm2(x).flatten(0, 1).index_select(0, routing.order)
        h = mlp.act(grouped_linear(tokens, mlp.fc1.weight, mlp.fc1.bias, routing))
        return x + self.mlp_scale(grouped_sum(self.mlp_sum, h, routing).view_as(x))

    def _grouped_attention(self, z: Tensor, routing: Routing) -> Tensor:
        """Return the chosen a_k (B, N, C).

        The queries of all other heads are 0, and what these heads return isn't read.
        """
        attn, (B, N, _), K = self.attn, z.shape, self.num_sub_blocks
        query_weight, kv_weight = attn.qkv.weight.split([attn.attn_dim, 2 * attn.attn_dim])
        query_bias, kv_bias = (
            (None, None) if attn.qkv.bias is None else attn.qkv.bias.split([attn.attn_dim, 2 * attn.attn_dim])
        )
        key, value = F.linear(z, kv_weight, kv_bias).view(B, N, 2, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        tokens = z.flatten(0, 1).index_select(0, routing.order)
        q_chosen = grouped_linear(tokens, query_weight, query_bias, routing)
        q_chosen = attn.q_norm(q_chosen.unflatten(-1, (-1, attn.head_dim))).flatten(1)
        rows = routing.order * K + routing.chosen.index_select(0, routing.order)
        q = q_chosen.new_zeros(B * N * K, q_chosen.shape[1]).index_copy_(0, rows, q_chosen)
        q = q.view(B, N, attn.num_heads, attn.head_dim).transpose(1, 2)
        o = F.scaled_dot_product_attention(q, attn.k_norm(key), value).transpose(1, 2)
        h_chosen = o.reshape(B * N * K, -1).index_select(0, rows)
        return grouped_sum(self.attn_sum, h_chosen, routing).view_as(z)

    def _attention(self, z: Tensor, routing: Routing, exact: bool) -> tuple[Tensor, Tensor]:
        """Return the chosen a_k (B, N, C); and all a_k (K, M, C), or the chosen ones (1, M, C).

        A token's query is computed for the heads of its chosen sub-block only; the keys and values
        of all tokens are computed for all heads.
        """
        attn, (B, N, _) = self.attn, z.shape
        query_weight, kv_weight = attn.qkv.weight.split([attn.attn_dim, 2 * attn.attn_dim])
        query_bias, kv_bias = (
            (None, None) if attn.qkv.bias is None else attn.qkv.bias.split([attn.attn_dim, 2 * attn.attn_dim])
        )
        kv = F.linear(z, kv_weight, kv_bias).view(B, N, 2, attn.num_heads, attn.head_dim)
        groups = _HeadGroups.apply(kv, self.num_sub_blocks)
        keys = [attn.k_norm(key) for key in groups[: self.num_sub_blocks]]  # each (B, heads/K, N, d)
        values = groups[self.num_sub_blocks :]
        q_chosen, q_all = routed_linear(z.flatten(0, 1), query_weight, query_bias, routing, exact)
        images = (routing.order // N).split(routing.sizes)  # of each token
        heads = []
        for queries, image, key, value in zip(q_chosen.split(routing.sizes), images, keys, values, strict=True):
            q = attn.q_norm(queries.unflatten(-1, (-1, attn.head_dim)))  # (M_k, heads/K, d)
            heads.append(_attend(q, image, key, value).flatten(1))
        with torch.no_grad():
            h_all = None
            if q_all is not None:
                q = attn.q_norm(q_all.view(B, N, attn.num_heads, attn.head_dim)).transpose(1, 2)
                key, value = kv.permute(2, 0, 3, 1, 4)
                o = F.scaled_dot_product_attention(q, attn.k_norm(key), value)
                h_all = o.transpose(1, 2).reshape(B * N, -1)
        y, sub_block_outputs = self.attn_sum.routed(torch.cat(heads), h_all, routing)
        return y.view(B, N, -1), sub_block_outputs

    def _mlp(self, z: Tensor, routing: Routing, exact: bool) -> tuple[Tensor, Tensor]:
        """Return the m_k as `_attention` returns the a_k."""
        fc1, act = self.mlp.fc1, self.mlp.act
        z_chosen, z_all = routed_linear(z.flatten(0, 1), fc1.weight, fc1.bias, routing, exact)
        with torch.no_grad():
            h_all = None if z_all is None else act(z_all)
        y, sub_block_outputs = self.mlp_sum.routed(act(z_chosen), h_all, routing)
        return y.view_as(z), sub_block_outputs


def _distance(full: Tensor, routed: Tensor, sub_block_outputs: Tensor, scale: nn.Module, routing: Routing) -> Tensor:
    """Return the distance between both streams after a residual that `scale` scales by channel."""
    with torch.no_grad():
        difference = (routed - full).flatten(0, 1)
        norm = difference.norm(dim=-1, keepdim=True)  # (M, 1)
        # ⟨u, scaled a_k⟩ = ⟨scaled u, a_k⟩
        dot = dot_with_sub_blocks(scale(difference), sub_block_outputs, routing)
        grad_p = dot / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return with_grad_p(norm.sum(), routing, grad_p)


def _masked_distance(
    streams: Tensor, hidden: Tensor, layer: SubBlockSum, scale: nn.Module, routing: Routing, sparse: bool
) -> Tensor:
    """Return the distance as `_distance` does, from all hidden units (2B, N, K·P)."""
    with torch.no_grad():
        full, routed = streams.chunk(2)
        difference = (routed - full).flatten(0, 1)
        norm = difference.norm(dim=-1, keepdim=True)
        direction = scale(difference)
        # ⟨u, a_k⟩ = Σ over part k of (Wᵀu) ⊙ h, plus ⟨u, b_k⟩: no a_k is in memory.
        products = (direction @ layer.weight) * hidden.chunk(2)[1].flatten(0, 1)
        dot = products.unflatten(-1, (len(layer.bias), -1)).sum(-1) + direction @ layer.bias.T
        grad_p = dot / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return masked_distance(norm, grad_p, routing, sparse)


class _HeadGroups(torch.autograd.Function):
    """Keys and values (B, N, 2, heads, d) as K keys, then K values, each (B, heads/K, N, d).

    The gradient is written directly to its place; the views' own backward pass has three steps.
    """

    @staticmethod
    def forward(ctx: Any, kv: Tensor, groups: int) -> tuple[Tensor, ...]:
        ctx.shape = kv.shape
        keys, values = kv.permute(2, 0, 3, 1, 4)
        return (*keys.chunk(groups, dim=1), *values.chunk(groups, dim=1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].new_empty(ctx.shape)
        of_keys, of_values = gradient.permute(2, 0, 3, 1, 4)
        groups = len(gradients) // 2
        for whole, parts in ((of_keys, gradients[:groups]), (of_values, gradients[groups:])):
            for target, part in zip(whole.chunk(groups, dim=1), parts, strict=True):
                target.copy_(part)
        return gradient, None


def _attend(q: Tensor, images: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute attention with a different number of queries per image.

    Args:
        q: the queries (M_k, heads, d), grouped by image.
        images: the image of each query (M_k,), ascending.
        key: the keys (B, heads, N, d).
        value: the values (B, heads, N, d).

    Returns:
        The outputs (M_k, heads, d).
    """
    B, heads, _, d = key.shape
    counts = torch.bincount(images, minlength=B)
    longest = int(counts.max())
    first = counts.cumsum(0) - counts
    # Queries are padded to the largest number per image; the outputs of padding are never read.
    padded_rows = images * longest + torch.arange(len(images), device=q.device) - first[images]
    padded = q.new_zeros(B * longest, heads, d).index_copy_(0, padded_rows, q)
    o = F.scaled_dot_product_attention(padded.view(B, longest, heads, d).transpose(1, 2), key, value)
    return o.transpose(1, 2).reshape(B * longest, heads, d).index_select(0, padded_rows)


class FactorizedViT(FactorizedBackbone):
    """A timm `VisionTransformer` with factorized blocks; see `factorize`."""

    def __init__(self, model: VisionTransformer, num_sub_blocks: int, chosen: frozenset[int]) -> None:
        super().__init__()
        self.num_sub_blocks = num_sub_blocks
        self.num_features = model.num_features
        self.blocks = nn.ModuleList(
            FactorizedViTBlock(block, num_sub_blocks) if i in chosen else block for i, block in enumerate(model.blocks)
        )
        model.blocks = nn.Sequential()  # the blocks are in self.blocks now
        self.model = model

    @staticmethod
    def widths(model: VisionTransformer) -> list[dict[str, int]]:
        """Return for each block the counts that K must divide, by name.

        Raises:
            InvalidInput: a block isn't timm's plain pre-norm block, which alone factorizes exactly.
        """
        widths: list[dict[str, int]] = []
        for i, block in enumerate(model.blocks):
            if not _is_plain(block):
                parts = (type(getattr(block, name, None)).__name__ for name in ("attn", "mlp"))
                raise InvalidInput(
                    f"block {i} is a {type(block).__name__}({', '.join(parts)}); only timm's plain "
                    "Block(Attention, Mlp), without gates or norms inside them, can be factorized exactly; "
                    "choose a plain ViT or DeiT"
                )
            hidden = block.mlp.fc2.in_features
            widths.append(
                {
                    f"the {block.attn.num_heads} heads": block.attn.num_heads,
                    f"the {hidden} hidden units of the MLP": hidden,
                }
            )
        return widths

    def stem(self, images: Tensor) -> Tensor:
        model = self.model
        x = model._pos_embed(model.patch_embed(images))
        return model.norm_pre(model.patch_drop(x))

    def head(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.forward_head(self.model.norm(x), pre_logits=True)
        return features


def _is_plain(block: Any) -> bool:
    if not (type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp):
        return False
    # A norm over all heads or hidden units can't be computed from one part of them.
    return (
        block.attn.gate is None and isinstance(block.attn.norm, nn.Identity) and isinstance(block.mlp.norm, nn.Identity)
    )
