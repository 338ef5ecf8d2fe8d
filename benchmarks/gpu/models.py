"""The models of the checks, and the images and labels that they see."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dfml.embedding_model import build_model
from dfml.factorized import FactorizedBackbone, factorize
from dfml.objective import Objective
from dfml.pretrained import create_backbone
from dfml.recipe import Recipe
from dfml.saved_model import save_model

# What figures call the three models whose speed is measured.
SMALL, BASE, CNN = "ViT-S", "ViT-B", "ResNet-50"
LITE = "tf_efficientnet_lite0"
CLASSES = 100
CPU = torch.device("cpu")


def is_resnet(name: str) -> bool:
    return "resnet" in name


def weights_of(name: str) -> str:
    """Return "pretrained" for the one model whose weights come with the project's packages."""
    return "pretrained" if name == LITE else "random"


def recipe_of(name: str, image: int, **values: object) -> Recipe:
    """Return the recipe of a model for images of `image` pixels, with other values if given."""
    defaults = {"backbone": name, "weights": "random", "image_size": image, "num_sub_blocks": _sub_blocks_of(name)}
    return Recipe(**{**defaults, **values})


def objective_of(recipe: Recipe, seed: int = 0) -> Objective:
    """Return model and loss, ready to train all weights."""
    torch.manual_seed(seed)
    names = [f"class {i}" for i in range(CLASSES)]
    objective = Objective(build_model(recipe, class_names=names), CLASSES).train()
    objective.set_warm_up(False)
    return objective


def dense_backbone(name: str, image: int) -> nn.Module:
    """Return timm's model, the same weights each time."""
    torch.manual_seed(0)
    return create_backbone(name, weights_of(name), image)


def factorized(dense: nn.Module, name: str) -> FactorizedBackbone:
    """Return a dense model's factorized backbone, for inference."""
    return factorize(dense, _sub_blocks_of(name)).eval()


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module as `Training` moves its objective."""
    return module.to(device, memory_format=torch.channels_last)


def saved_model(folder: Path, name: str, image: int) -> Path:
    """Save a model in `folder`, unless one is there, and return the folder."""
    if not folder.exists():
        torch.manual_seed(0)
        recipe = recipe_of(name, image, weights=weights_of(name))
        save_model(folder, build_model(recipe).eval(), {"metrics": {}})
    return folder


def noise(batch: int, image: int, device: torch.device, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random images (batch, 3, image, image), the same on each device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, image, image, generator=generator, dtype=dtype).to(device)


def images_for(name: str, batch: int, image: int, device: torch.device, seed: int = 1) -> Tensor:
    """Return images that routers with random weights divide evenly among the sub-blocks.

    For a ViT, which routes tokens, that is noise. For a CNN, which routes images by their pooled
    features, each image has a color of its own.
    """
    images = noise(batch, image, device, seed)
    if not is_resnet(name):
        return images
    colors = torch.randn(batch, 3, 1, 1, generator=torch.Generator().manual_seed(seed)).to(device)
    return 0.5 * images + colors


def labels_for(batch: int, device: torch.device) -> Tensor:
    """Return random labels (batch,), the same on each device."""
    return torch.randint(CLASSES, (batch,), generator=torch.Generator().manual_seed(2)).to(device)


def _sub_blocks_of(name: str) -> int:
    return 4 if is_resnet(name) else 3
