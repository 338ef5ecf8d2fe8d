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
from dfml.factorized.sub_blocks import SubBlockSum, routing_distance, straight_through


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
        found = self._attention(z, attention, exact=not sparse)
        routed, attn_distance = self._add(routed, found, self.attn_scale, attention, self.attn_router, z, full)
        full = self._full_mlp(full)
        mlp = self.mlp_router(routed)
        found = self._mlp(self.norm2(routed), mlp, exact=not sparse)
        routed, mlp_distance = self._add(routed, found, self.mlp_scale, mlp, self.mlp_router, routed, full)
        return BlockOutput(full, routed, attn_distance + mlp_distance, *RoutingSums.of(attention, mlp))

    @staticmethod
    def _add(
        x: Tensor,
        found: tuple[Tensor, Tensor],
        scale: nn.Module,
        routing: Routing,
        router: Router,
        router_input: Tensor,
        full: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The routed stream after the residual (B, N, C), and its distance from the full stream there."""
        y, values = found
        with torch.no_grad():
            values = scale(values).flatten(1, 2)
        x = x + straight_through(scale(y).flatten(0, 1), routing, values).view_as(x)
        p = router.probabilities(router_input.detach()).flatten(0, 1)
        distance = routing_distance(full.flatten(0, 1), x.flatten(0, 1), lambda u: u, p, routing, values, channels=-1)
        return x, distance

    def _attention(self, z: Tensor, routing: Routing, exact: bool) -> tuple[Tensor, Tensor]:
        """The chosen a_k (B, N, C), and for the router the values of all a_k (K, B, N, C) or of the chosen (1, B, N, C).

        A token's query is made for its own heads only; every token's key and value are seen by all.
        """
        attn, (B, N, _) = self.attn, z.shape
        query_weight, kv_weight = attn.qkv.weight.split([attn.attn_dim, 2 * attn.attn_dim])
        query_bias, kv_bias = (
            (None, None) if attn.qkv.bias is None else attn.qkv.bias.split([attn.attn_dim, 2 * attn.attn_dim])
        )
        kv = F.linear(z, kv_weight, kv_bias).view(B, N, 2, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        key, value = attn.k_norm(kv[0]), kv[1]  # (B, heads, N, d)
        weights = query_weight.chunk(self.routers)
        biases = [None] * self.routers if query_bias is None else query_bias.chunk(self.routers)
        groups = zip(
            routing.split(z.flatten(0, 1)),
            routing.order.split(routing.sizes),
            weights,
            biases,
            key.chunk(self.routers, dim=1),
            value.chunk(self.routers, dim=1),
            strict=True,
        )
        heads = []
        for tokens, rows, weight, bias, k, v in groups:
            q = attn.q_norm(F.linear(tokens, weight, bias).unflatten(-1, (-1, attn.head_dim)))  # (M_k, heads/K, d)
            heads.append(_attend(q, rows // N, k, v).flatten(1))
        y = routing.join(self.attn_sum.each(heads)).view(B, N, -1)
        with torch.no_grad():
            if not exact:
                return y, y.detach()[None]
            q = F.linear(z, query_weight, query_bias).view(B, N, attn.num_heads, attn.head_dim).transpose(1, 2)
            o = F.scaled_dot_product_attention(attn.q_norm(q), key, value)
            o = o.transpose(1, 2).reshape(B, N, -1)
            return y, torch.stack(self.attn_sum.each(list(o.chunk(self.routers, dim=-1))))

    def _mlp(self, z: Tensor, routing: Routing, exact: bool) -> tuple[Tensor, Tensor]:
        """As `_attention`, for m_k."""
        fc1, routers = self.mlp.fc1, self.routers
        biases = [None] * routers if fc1.bias is None else fc1.bias.chunk(routers)
        parts = zip(routing.split(z.flatten(0, 1)), fc1.weight.chunk(routers), biases, strict=True)
        hidden = [self.mlp.act(F.linear(tokens, weight, bias)) for tokens, weight, bias in parts]
        y = routing.join(self.mlp_sum.each(hidden)).view_as(z)
        with torch.no_grad():
            if not exact:
                return y, y.detach()[None]
            return y, torch.stack(self.mlp_sum.each(list(self.mlp(z).chunk(routers, dim=-1))))


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
    padded = q.new_zeros(B * longest, heads, d).index_copy(0, places, q)
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
