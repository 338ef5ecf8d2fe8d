"""A small packed data set of drawn images and a recipe that trains on it in seconds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfml.data.format.shards import ImageRow
from dfml.data.packing.pack import pack
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.embedding_model import build_model
from dfml.recipe import Recipe, recipe_from
from dfml.saved_model import save_model
from tests.dfml.factorized.backbones import randomized

TINY = {
    "backbone": "test_resnet",  # timm's, with 372,000 weights; a block starts as the identity
    "weights": "random",
    "num_sub_blocks": 2,
    "image_size": 32,
    "crop_scale": 0.5,
    "batch_size": 8,
    "images_per_class": 2,
    "epochs": 3,
    "warm_epochs": 1,
    "lr": 1e-3,
    "schedule": {"kind": "step", "step": 1, "gamma": 0.5},
}


def drawn_images(split: str, classes: int, images: int, seed: int) -> Iterator[ImageRow]:
    """Yield `images` noisy PNG images per class, in the class's own colors."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        coarse = rng.integers(0, 256, (4, 4, 3)).repeat(10, 0).repeat(10, 1)
        for i in range(images):
            noisy = np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(noisy).save(stream, "PNG")
            yield ImageRow(stream.getvalue(), f"{split} class {c}", f"{split}/{c}/{i}.png", split)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack a data set: 7 training classes of 5 images, 4 test classes of 3 images."""
    root = tmp_path_factory.mktemp("packed")
    pack([*drawn_images("train", 7, 5, seed=1), *drawn_images("test", 4, 3, seed=2)], root, "drawn")
    return root


@pytest.fixture(scope="session")
def train_images(packed: Path) -> ShardedImages:
    return ShardedImages(packed, "train")


@pytest.fixture(scope="session")
def test_images(packed: Path) -> ShardedImages:
    return ShardedImages(packed, "test")


@pytest.fixture(scope="session")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small model as a sweep does, with random weights; its two paths differ."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "best"
    model = build_model(recipe_from(TINY))
    randomized(model)
    save_model(folder, model, {})
    return folder


@pytest.fixture
def tiny_recipe() -> Recipe:
    return recipe_from(TINY)
