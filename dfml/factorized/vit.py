"""Factorized timm ViT and DeiT, distilled ones included (DESIGN §2).

Sub-block k of an attention owns the heads kH/K … (k+1)H/K, sub-block k of an MLP the k-th of K parts of its hidden units.
B images, N tokens, M = B·N, C channels, d channels a head, K sub-blocks.
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
from dfml.factorized.backbone import BlockOutput, FactorizedBackbone, FactorizedBlock, RoutingSums
from dfml.factorized.router import Router, Routing
from dfml.factorized.sub_blocks import SubBlockSum, inner, routed_linear, with_slope


class FactorizedViTBlock(FactorizedBlock):
    """x ← x + Σ_k r_k a_k(x); x ← x + Σ_k r_k m_k(x), with one router for each of the two sums."""

    def __init__(self, block: Block, routers: int) -> None:
        super().__init__()
        width = block.norm1.normalized_shape[0]
        self.norm1 = block.norm1
        self.attn_router = Router(width, routers)
        self.attn = block.attn  # timm's own attention up to the concatenated heads: its projection moves to attn_sum
        self.attn_sum = SubBlockSum(block.attn.proj, routers)
        self.attn.proj = nn.Identity()
        self.attn_scale = block.ls1
        self.mlp_router = Router(width, routers)
        self.norm2 = block.norm2
        self.mlp = block.mlp  # likewise up to the hidden activation
        self.mlp_sum = SubBlockSum(block.mlp.fc2, routers)
        self.mlp.fc2 = nn.Identity()
        self.mlp_scale = block.ls2
        self.routers = routers

    def full(self, x: Tensor) -> Tensor:
        return self._full_mlp(self._full_attention(x))

    def _full_attention(self, x: Tensor) -> Tensor:
        return x + self.attn_scale(self.attn_sum(self.attn(self.norm1(x))))

    def _full_mlp(self, x: Tensor) -> Tensor:
        return x + self.mlp_scale(self.mlp_sum(self.mlp(self.norm2(x))))

    def compile_full(self) -> None:
        self._full_attention = torch.compile(self._full_attention)  # type: ignore[method-assign]
        self._full_mlp = torch.compile(self._full_mlp)  # type: ignore[method-assign]

    def routed(self, x: Tensor) -> Tensor:
        z = self.norm1(x)
        x = x + self.attn_scale(self._attention(z, self.attn_router(z), exact=False)[0])
        # The MLP's router reads the stream as it is, not normalised (as the published code does).
        return x + self.mlp_scale(self._mlp(self.norm2(x), self.mlp_router(x), exact=False)[0])

    def both(self, full: Tensor, routed: Tensor, sparse: bool) -> BlockOutput:
        full = self._full_attention(full)
        z = self.norm1(routed)
        attention = self.attn_router(z)
        y, values = self._attention(z, attention, exact=not sparse)
        routed = routed + self.attn_scale(y)
        distance = _distance(full, routed, values, self.attn_scale, attention)
        full = self._full_mlp(full)
        mlp = self.mlp_router(routed)
        y, values = self._mlp(self.norm2(routed), mlp, exact=not sparse)
        routed = routed + self.mlp_scale(y)
        distance = distance + _distance(full, routed, values, self.mlp_scale, mlp)
        return BlockOutput(full, routed, distance, *RoutingSums.of(attention, mlp))

    def _attention(self, z: Tensor, routing: Routing, exact: bool) -> tuple[Tensor, Tensor]:
        """The chosen a_k (B, N, C), and for the router the values of all a_k (K, M, C) or of the chosen (1, M, C).

        A token's query is made for its own heads only; every token's key and value are seen by all.
        """
        attn, (B, N, _) = self.attn, z.shape
        query_weight, kv_weight = attn.qkv.weight.split([attn.attn_dim, 2 * attn.attn_dim])
        query_bias, kv_bias = (
            (None, None) if attn.qkv.bias is None else attn.qkv.bias.split([attn.attn_dim, 2 * attn.attn_dim])
        )
        kv = F.linear(z, kv_weight, kv_bias).view(B, N, 2, attn.num_heads, attn.head_dim)
        groups = _HeadGroups.apply(kv, self.routers)
        keys = [attn.k_norm(key) for key in groups[: self.routers]]  # each (B, heads/K, N, d)
        values = groups[self.routers :]
        own, everything = routed_linear(z.flatten(0, 1), query_weight, query_bias, routing, exact)
        images = (routing.order // N).split(routing.sizes)  # of each token
        heads = []
        for queries, image, key, value in zip(own.split(routing.sizes), images, keys, values, strict=True):
            q = attn.q_norm(queries.unflatten(-1, (-1, attn.head_dim)))  # (M_k, heads/K, d)
            heads.append(_attend(q, image, key, value).flatten(1))
        with torch.no_grad():
            outputs = None
            if everything is not None:
                q = attn.q_norm(everything.view(B, N, attn.num_heads, attn.head_dim)).transpose(1, 2)
                key, value = kv.permute(2, 0, 3, 1, 4)
                o = F.scaled_dot_product_attention(q, attn.k_norm(key), value)
                outputs = o.transpose(1, 2).reshape(B * N, -1)
        y, of_all = self.attn_sum.routed(torch.cat(heads), outputs, routing)
        return y.view(B, N, -1), of_all

    def _mlp(self, z: Tensor, routing: Routing, exact: bool) -> tuple[Tensor, Tensor]:
        """As `_attention`, for m_k."""
        fc1, act = self.mlp.fc1, self.mlp.act
        own, everything = routed_linear(z.flatten(0, 1), fc1.weight, fc1.bias, routing, exact)
        with torch.no_grad():
            hidden = None if everything is None else act(everything)
        y, values = self.mlp_sum.routed(act(own), hidden, routing)
        return y.view_as(z), values


def _distance(full: Tensor, routed: Tensor, values: Tensor, scale: nn.Module, routing: Routing) -> Tensor:
    """The routed stream's distance from the full one after a residual, whose sub-blocks were scaled channel by channel."""
    with torch.no_grad():
        difference = (routed - full).flatten(0, 1)
        norm = difference.norm(dim=-1, keepdim=True)  # (M, 1)
        # ⟨u, scaled a_k⟩ = ⟨scaled u, a_k⟩
        slope = inner(scale(difference), values, routing) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return with_slope(norm.sum(), routing, slope)


class _HeadGroups(torch.autograd.Function):
    """Keys and values (B, N, 2, heads, d) to those of K groups of heads: K keys, then K values, each (B, heads/K, N, d).

    The gradient is written straight to its place; views' own backward would put it together in three steps.
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
            for place, part in zip(whole.chunk(groups, dim=1), parts, strict=True):
                place.copy_(part)
        return gradient, None


def _attend(q: Tensor, images: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of queries that are a different number an image.

    Args:
        q: (M_k, heads, d), those of an image together.
        images: the image of each query (M_k,), ascending.
        key, value: (B, heads, N, d).

    Returns:
        (M_k, heads, d).
    """
    B, heads, _, d = key.shape
    counts = torch.bincount(images, minlength=B)
    longest = int(counts.max())
    first = counts.cumsum(0) - counts
    # Queries are padded to the longest image's; what a padded query attends to is never read.
    places = images * longest + torch.arange(len(images), device=q.device) - first[images]
    padded = q.new_zeros(B * longest, heads, d).index_copy_(0, places, q)
    o = F.scaled_dot_product_attention(padded.view(B, longest, heads, d).transpose(1, 2), key, value)
    return o.transpose(1, 2).reshape(B * longest, heads, d).index_select(0, places)


class FactorizedViT(FactorizedBackbone):
    """A timm `VisionTransformer` with factorized blocks; see `factorize`."""

    def __init__(self, model: VisionTransformer, routers: int, chosen: frozenset[int]) -> None:
        super().__init__()
        self.routers = routers
        self.num_features = model.num_features
        self.blocks = nn.ModuleList(
            FactorizedViTBlock(block, routers) if i in chosen else block for i, block in enumerate(model.blocks)
        )
        model.blocks = nn.Sequential()  # they live in self.blocks now
        self.model = model

    @staticmethod
    def widths(model: VisionTransformer) -> list[dict[str, int]]:
        """For each block the counts that K must divide, each with its name.

        Raises:
            InvalidInput: a block isn't timm's plain pre-norm block, so that no exact factorization is known for it.
        """
        widths: list[dict[str, int]] = []
        for i, block in enumerate(model.blocks):
            if not _is_plain(block):
                kinds = f"{type(block).__name__}({type(getattr(block, 'attn', None)).__name__}, {type(getattr(block, 'mlp', None)).__name__})"
                raise InvalidInput(
                    f"block {i} is a {kinds}; only timm's plain Block(Attention, Mlp), without gates or norms inside them, factorizes "
                    "exactly: choose a ViT or DeiT without variants"
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
    # A norm over all heads or hidden units can't be known from one part of them.
    return (
        block.attn.gate is None and isinstance(block.attn.norm, nn.Identity) and isinstance(block.mlp.norm, nn.Identity)
    )
