"""The embedding model: a factorized backbone, an optional linear head, and the image transform."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.data.format.images import to_rgb
from dfml.data.streaming.transforms import Normalization, evaluation_transform, normalized
from dfml.errors import InvalidInput
from dfml.factorized import BothPaths, FactorizedBackbone, ForwardPath, at_least_float32, factorize
from dfml.precision import inference
from dfml.pretrained import create_backbone, pretrained_classifier, sub_blocks_of
from dfml.recipe import Recipe


class EmbeddingModel(nn.Module):
    """A factorized model that embeds images.

    Attributes:
        recipe: the recipe that the model was, or will be, trained with.
        embedding_size: the width D of an embedding.
        class_names: the classes of a classifier, in the order of its logits; empty for retrieval.
        normalization: the mean and standard deviation that the backbone was pretrained with.
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
        self.normalization = Normalization(mean=tuple(cfg.mean), std=tuple(cfg.std))

    def forward(self, images: Tensor, path: ForwardPath | None = None) -> Tensor:
        """Return L2-normalized embeddings (B, D) of normalized images (B, 3, H, W).

        `path` is "full" or "routed"; None: the recipe's inference path.
        """
        return F.normalize(self._inferred(images, path), dim=-1)

    def features(self, images: Tensor, path: ForwardPath = "full") -> Tensor:
        """Return embeddings of one path, not normalized."""
        features: Tensor = self.head(self.backbone(images, path))
        return features

    def logits(self, images: Tensor, path: ForwardPath | None = None) -> Tensor:
        """Return a classifier's logits (B, C); `path` as in `forward`.

        Raises:
            InvalidInput: the model has no classifier.
        """
        if self.classifier is None:
            raise InvalidInput("this model was trained for retrieval and has no classifier; use embed")
        logits: Tensor = self.classifier(self._inferred(images, path))
        return logits

    def _inferred(self, images: Tensor, path: ForwardPath | None) -> Tensor:
        with inference(self.recipe.precision, images.device):
            return at_least_float32(self.features(images, path or self.recipe.inference))

    def both_paths(self, images: Tensor) -> BothPaths:
        """Run both paths in one pass; their embeddings aren't normalized."""
        both = self.backbone(images, "both")
        full, routed = self.head(torch.cat([both.full, both.routed])).chunk(2)
        return both._replace(full=full, routed=routed)

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image], path: ForwardPath | None = None) -> Tensor:
        """Return the L2-normalized embeddings of PIL images of any size and mode.

        They are (len(images), D), float32, on the CPU; `path` as in `forward`.
        """
        return self.embed_pixels(self.pixels(images), path)

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor, path: ForwardPath | None = None) -> Tensor:
        """Return what `embed` does, of images that are resized and cropped: uint8 (B, 3, H, W)."""
        embeddings: Tensor = self.eval()(self.normalized(pixels), path)
        return embeddings.float().cpu()

    @torch.inference_mode()
    def classify(self, images: Sequence[Image.Image], path: ForwardPath | None = None) -> Tensor:
        """Return the probabilities of `class_names` for PIL images.

        They are (len(images), C), float32, on the CPU; `path` as in `forward`.

        Raises:
            InvalidInput: the model has no classifier.
        """
        return self.eval().logits(self.normalized(self.pixels(images)), path).float().softmax(dim=-1).cpu()

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Return PIL images resized and cropped for the model: uint8 (B, 3, H, W)."""
        transform = evaluation_transform(self.recipe)
        return torch.stack([transform(to_rgb(image)) for image in images])

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels (B, 3, H, W) as the model's input, on its device."""
        return normalized(pixels, self.normalization, next(self.parameters()).device)


def build_model(recipe: Recipe, load_weights: bool = True, class_names: Sequence[str] = ()) -> EmbeddingModel:
    """Build the model of a recipe.

    Args:
        recipe: the recipe.
        load_weights: whether to load the recipe's weights; False: start at random.
        class_names: the classes of a classifier. It starts from the classifier in the weights file
            if that has as many classes, else at random.
    """
    weights = recipe.weights if load_weights else "random"
    cfg = timm.get_pretrained_cfg(recipe.backbone) if timm.is_model(recipe.backbone) else None
    if recipe.test_size not in (None, recipe.image_size) and cfg is not None and cfg.fixed_input_size:
        raise InvalidInput(
            f"test_size {recipe.test_size} differs from image_size {recipe.image_size}, "
            f"but {recipe.backbone} takes one size only; drop test_size"
        )
    backbone = create_backbone(recipe.backbone, weights, recipe.image_size)
    factorized = factorize(backbone, recipe.num_sub_blocks, recipe.block_numbers())
    own = sub_blocks_of(weights, recipe.num_sub_blocks)
    factorized.load_state_dict({name: own[name] for name in factorized.state_dict() if name in own}, strict=False)
    factorized.sparse = recipe.sparse_training
    factorized.checkpointing = recipe.activation_checkpointing
    for router in factorized.routers():
        router.temperature = recipe.router_temperature
    if recipe.compile:
        factorized.compile_blocks()
    model = EmbeddingModel(factorized, recipe, class_names)
    if model.classifier is not None:
        model.classifier.load_state_dict(pretrained_classifier(recipe.backbone, weights, model.classifier))
    return model
