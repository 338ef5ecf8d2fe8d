"""Factorized timm ViT and DeiT, distilled ones included (DESIGN §2).

Sub-block k of an attention owns the heads kH/K … (k+1)H/K, sub-block k of an MLP the k-th of K parts of its hidden units.
"""

from __future__ import annotations

from timm.layers import LayerScale
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dfml.errors import InvalidInput
from dfml.factorized.backbone import FactorizedBackbone, FactorizedBlock, Path
from dfml.factorized.router import Router
from dfml.factorized.sub_blocks import SubBlockSum, routing_distance


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

    def forward(self, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        z = self.norm1(x)
        x, attn_distance = self._add(x, self.attn(z), z, self.attn_router, self.attn_sum, self.attn_scale, path)
        # The MLP's router reads the stream as it is, not normalised (as the published code does).
        h = self.mlp(self.norm2(x))
        x, mlp_distance = self._add(x, h, x, self.mlp_router, self.mlp_sum, self.mlp_scale, path)
        return x, attn_distance + mlp_distance

    def _add(
        self, x: Tensor, h: Tensor, z: Tensor, router: Router, sub_blocks: SubBlockSum, scale: nn.Module, path: Path
    ) -> tuple[Tensor, Tensor]:
        """x (B, N, C) + Σ_k r_k a_k with h (B, N, H) the sub-blocks' inputs and z (B, N, C) the router's."""
        x = x + scale(sub_blocks(h, self.choose(router, z, path)))
        if path != "both":
            return x, x.new_zeros(())
        x_full, x_routed = x.chunk(2)
        h_routed, z_routed = h.chunk(2)[1], z.chunk(2)[1]
        gamma = scale.gamma if isinstance(scale, LayerScale) else 1.0
        distance = routing_distance(
            x_full,
            x_routed,
            router(z_routed.detach()),
            along=lambda direction: sub_blocks.along(direction * gamma, h_routed),
            channels=-1,
        )
        return x, distance


class FactorizedViT(FactorizedBackbone):
    """A timm `VisionTransformer` with factorized blocks; see `factorize`."""

    def __init__(self, model: VisionTransformer, routers: int) -> None:
        super().__init__()
        self.routers = routers
        self.num_features = model.num_features
        self.blocks = nn.ModuleList(FactorizedViTBlock(block, routers) for block in model.blocks)
        model.blocks = nn.Sequential()  # they live in self.blocks now
        self.model = model

    @staticmethod
    def widths(model: VisionTransformer) -> dict[str, int]:
        """The counts that K must divide, each with its name.

        Raises:
            InvalidInput: a block isn't timm's plain pre-norm block, so that no exact factorization is known for it.
        """
        widths: dict[str, int] = {}
        for i, block in enumerate(model.blocks):
            plain = type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp
            if not plain:
                kinds = f"{type(block).__name__}({type(getattr(block, 'attn', None)).__name__}, {type(getattr(block, 'mlp', None)).__name__})"
                raise InvalidInput(
                    f"block {i} is a {kinds}; only timm's plain Block(Attention, Mlp) factorizes exactly: choose a ViT or DeiT without variants"
                )
            widths[f"the {block.attn.num_heads} heads"] = block.attn.num_heads
            hidden = block.mlp.fc2.in_features
            widths[f"the {hidden} hidden units of the MLP"] = hidden
        return widths

    def stem(self, images: Tensor) -> Tensor:
        model = self.model
        x = model._pos_embed(model.patch_embed(images))
        return model.norm_pre(model.patch_drop(x))

    def head(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.forward_head(self.model.norm(x), pre_logits=True)
        return features
