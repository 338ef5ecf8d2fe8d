"""The baselines of a trained model."""

from __future__ import annotations

import torch

from dfml.baselines import baselines, raw_pixels
from dfml.recipe import Recipe


def test_raw_pixels_do_not_see_brightness_or_contrast() -> None:
    images = torch.rand(4, 3, 64, 64)
    torch.testing.assert_close(raw_pixels(3 * images + 0.5), raw_pixels(images), rtol=1e-4, atol=1e-5)


def test_raw_pixels_are_averages_of_unit_length() -> None:
    images = torch.rand(4, 3, 64, 64)
    pixels = raw_pixels(images)
    assert pixels.shape == (4, 3 * 32 * 32)
    torch.testing.assert_close(pixels.norm(dim=1), torch.ones(4))
    ratio = (images[0, 1, 2:4, 4:6].mean() - images[0].mean()) / (images[0, 0, :2, :2].mean() - images[0].mean())
    torch.testing.assert_close(pixels[0, 1024 + 32 + 2] / pixels[0, 0], ratio, rtol=1e-3, atol=1e-3)


def test_frozen_backbone_is_the_pretrained_one_without_the_recipes_head(tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.model_copy(
        update={"backbone": "tf_efficientnet_lite0", "weights": "pretrained", "embedding_size": 16}
    )
    embedders = baselines(recipe)
    assert set(embedders) == {"frozen pretrained backbone", "raw pixels"}
    with torch.inference_mode():
        embeddings = embedders["frozen pretrained backbone"](torch.randn(2, 3, 32, 32))
    assert embeddings.shape == (2, 1280)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
