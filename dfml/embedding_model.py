"""From an image to its embedding: factorized backbone, optional linear head, and the transform that feeds them."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.data.shards import to_rgb
from dfml.data.transforms import Normalisation, evaluation_transform
from dfml.errors import InvalidInput
from dfml.factorized import BothPaths, FactorizedBackbone, Path, factorize
from dfml.pretrained import create_backbone, sub_blocks_of
from dfml.recipe import Recipe


class EmbeddingModel(nn.Module):
    """A factorized model that embeds images.

    Attributes:
        recipe: what it was (or will be) trained with.
        embedding_size: width D of an embedding.
        normalisation: mean and standard deviation the backbone was pretrained with.
    """

    def __init__(self, backbone: FactorizedBackbone, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = backbone
        self.embedding_size = recipe.embedding_size or backbone.num_features
        self.head: nn.Module = nn.Identity()
        if recipe.embedding_size is not None:
            self.head = nn.Linear(backbone.num_features, recipe.embedding_size)
        cfg = timm.get_pretrained_cfg(recipe.backbone)
        self.normalisation = Normalisation(mean=tuple(cfg.mean), std=tuple(cfg.std))

    def forward(self, images: Tensor, path: Path = "full") -> Tensor:
        """images (B, 3, H, W), transformed, to L2-normalised embeddings (B, D) of the "full" or the "routed" path."""
        return F.normalize(self.features(images, path), dim=-1)

    def features(self, images: Tensor, path: Path = "full") -> Tensor:
        """Embeddings of one path, not normalised."""
        features: Tensor = self.head(self.backbone(images, path))
        return features

    def both_paths(self, images: Tensor) -> BothPaths:
        """Embeddings of both paths, not normalised, and the routers' distance, in one pass."""
        both = self.backbone(images, "both")
        full, routed = self.head(torch.cat([both.full, both.routed])).chunk(2)
        return both._replace(full=full, routed=routed)

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image], path: Path = "full") -> Tensor:
        """Embed PIL images of any size and mode: (len(images), D), L2-normalised, float32 on the CPU."""
        transform = evaluation_transform(self.recipe, self.normalisation)
        batch = torch.stack([transform(to_rgb(image)) for image in images])
        self.eval()
        embeddings: Tensor = self(batch.to(next(self.parameters()).device), path)
        return embeddings.float().cpu()


def build_model(recipe: Recipe, load_weights: bool = True) -> EmbeddingModel:
    """The model of a recipe; with `load_weights=False` no pretrained weights are looked for."""
    weights = recipe.weights if load_weights else "random"
    cfg = timm.get_pretrained_cfg(recipe.backbone) if timm.is_model(recipe.backbone) else None
    if recipe.test_size not in (None, recipe.image_size) and cfg is not None and cfg.fixed_input_size:
        raise InvalidInput(
            f"test_size {recipe.test_size} differs from image_size {recipe.image_size}, but {recipe.backbone} takes one size only: drop test_size"
        )
    backbone = create_backbone(recipe.backbone, weights, recipe.image_size)
    factorized = factorize(backbone, recipe.routers, recipe.block_numbers())
    own = sub_blocks_of(weights, recipe.routers)
    factorized.load_state_dict({name: own[name] for name in factorized.state_dict() if name in own}, strict=False)
    factorized.sparse = recipe.sparse_training
    factorized.checkpointing = recipe.activation_checkpointing
    for router in factorized.all_routers():
        router.temperature = recipe.router_temperature
    if recipe.compile:
        factorized.compile_full_path()
    return EmbeddingModel(factorized, recipe)
