"""From an image to its embedding: factorized backbone, optional linear head, and the transform that feeds them."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.data.images import to_rgb
from dfml.data.transforms import Normalisation, evaluation_transform
from dfml.errors import InvalidInput
from dfml.factorized import BothPaths, FactorizedBackbone, Path, factorize
from dfml.pretrained import create_backbone, pretrained_classifier, sub_blocks_of
from dfml.recipe import Recipe


class EmbeddingModel(nn.Module):
    """A factorized model that embeds images.

    Attributes:
        recipe: what it was (or will be) trained with.
        embedding_size: width D of an embedding.
        class_names: the classes of a classifier, in the order of its logits; empty for retrieval.
        normalisation: mean and standard deviation the backbone was pretrained with.
    """

    def __init__(self, backbone: FactorizedBackbone, recipe: Recipe, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = backbone
        self.embedding_size = recipe.embedding_size or backbone.num_features
        self.head: nn.Module = nn.Identity()
        if recipe.embedding_size is not None:
            self.head = nn.Linear(backbone.num_features, recipe.embedding_size)
        self.class_names = tuple(class_names) if recipe.task == "classification" else ()
        self.classifier = nn.Linear(backbone.num_features, len(self.class_names)) if self.class_names else None
        cfg = timm.get_pretrained_cfg(recipe.backbone)
        self.normalisation = Normalisation(mean=tuple(cfg.mean), std=tuple(cfg.std))

    def forward(self, images: Tensor, path: Path | None = None) -> Tensor:
        """images (B, 3, H, W), transformed, to L2-normalised embeddings (B, D) of the "full" or the "routed" path; None: the recipe's."""
        return F.normalize(self.features(images, path or self.recipe.inference), dim=-1)

    def features(self, images: Tensor, path: Path = "full") -> Tensor:
        """Embeddings of one path, not normalised."""
        features: Tensor = self.head(self.backbone(images, path))
        return features

    def logits(self, images: Tensor, path: Path | None = None) -> Tensor:
        """A classifier's logits (B, C); `path` as in `forward`.

        Raises:
            InvalidInput: the model embeds and has no classifier.
        """
        if self.classifier is None:
            raise InvalidInput("this model was trained for retrieval and has no classifier: use embed")
        logits: Tensor = self.classifier(self.features(images, path or self.recipe.inference))
        return logits

    def both_paths(self, images: Tensor) -> BothPaths:
        """Embeddings of both paths, not normalised, and the routers' distance, in one pass."""
        both = self.backbone(images, "both")
        full, routed = self.head(torch.cat([both.full, both.routed])).chunk(2)
        return both._replace(full=full, routed=routed)

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image], path: Path | None = None) -> Tensor:
        """Embed PIL images of any size and mode: (len(images), D), L2-normalised, float32 on the CPU; `path` as in `forward`."""
        embeddings: Tensor = self.eval()(self._transformed(images), path)
        return embeddings.float().cpu()

    @torch.inference_mode()
    def classify(self, images: Sequence[Image.Image], path: Path | None = None) -> Tensor:
        """Probabilities of `class_names` for PIL images: (len(images), C), float32 on the CPU; `path` as in `forward`.

        Raises:
            InvalidInput: the model embeds and has no classifier.
        """
        return self.eval().logits(self._transformed(images), path).float().softmax(dim=-1).cpu()

    def _transformed(self, images: Sequence[Image.Image]) -> Tensor:
        transform = evaluation_transform(self.recipe, self.normalisation)
        batch = torch.stack([transform(to_rgb(image)) for image in images])
        return batch.to(next(self.parameters()).device)


def build_model(recipe: Recipe, load_weights: bool = True, class_names: Sequence[str] = ()) -> EmbeddingModel:
    """The model of a recipe.

    Args:
        recipe: what to build.
        load_weights: False: look for no pretrained weights.
        class_names: of the training images; a classifier's, which starts from pretrained weights of as many classes where the
            backbone's file has them, else at random.
    """
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
    model = EmbeddingModel(factorized, recipe, class_names)
    if model.classifier is not None:
        model.classifier.load_state_dict(pretrained_classifier(recipe.backbone, weights, model.classifier))
    return model
