"""Recipes: the published defaults, and a message of one sentence for each unusable recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dfml.errors import InvalidInput
from dfml.losses import CONSTANTS
from dfml.recipe import Recipe, recipe_from
from dfml.schedule import CosineDecay, ExponentialDecay, StepDecay


def test_defaults_are_the_published_recipe_for_cub() -> None:
    recipe = Recipe()
    assert recipe.backbone == "deit_small_distilled_patch16_224"
    assert recipe.embedding_size is None  # the backbone's width, 384
    assert recipe.loss == "proxy_anchor"
    assert (CONSTANTS[recipe.loss].alpha, CONSTANTS[recipe.loss].margin) == (32.0, 0.1)
    assert (recipe.batch_size, recipe.lr, recipe.warm_epochs, recipe.epochs) == (120, 1e-4, 5, 60)
    assert recipe.schedule == StepDecay(step=5, gamma=0.5)
    assert (recipe.routed_weight, recipe.embedding_reconstruction, recipe.stream_reconstruction) == (0.5, 0.1, 1e-5)
    assert (recipe.weight_decay, recipe.proxy_lr_multiplier, recipe.clip_value) == (1e-4, 100.0, 10.0)
    assert (recipe.image_size, recipe.test_crop) == (224, 224 / 256)


@pytest.mark.parametrize(
    ("values", "schedule"),
    [
        ({"kind": "step", "step": 10, "gamma": 0.25}, StepDecay(step=10, gamma=0.25)),
        ({"kind": "cosine"}, CosineDecay()),
        ({"kind": "exponential", "gamma": 0.95}, ExponentialDecay(gamma=0.95)),
    ],
)
def test_schedule_is_chosen_by_its_kind(values: dict[str, Any], schedule: object) -> None:
    assert recipe_from({"schedule": values}).schedule == schedule


def test_recipe_survives_json() -> None:
    recipe = recipe_from(
        {"schedule": {"kind": "exponential", "gamma": 0.7}, "num_sub_blocks": 6, "embedding_size": 128}
    )
    assert recipe_from(recipe.model_dump(mode="json")) == recipe


BAD = [
    ({"learning_rate": 0.1}, "learning_rate"),
    ({"lr": 0}, "lr = 0"),
    ({"lr": "fast"}, "lr = 'fast'"),
    ({"lr": math.nan}, "lr"),
    ({"lr": math.inf}, "lr"),
    ({"alpha": math.inf}, "alpha"),
    ({"num_sub_blocks": 0}, "num_sub_blocks = 0"),
    ({"num_sub_blocks": 2.5}, "num_sub_blocks = 2.5"),
    ({"epochs": 0}, "epochs = 0"),
    ({"batch_size": 1}, "batch_size = 1"),
    ({"image_size": 16}, "image_size = 16"),
    ({"test_crop": 1.5}, "test_crop = 1.5"),
    ({"crop_scale": 0}, "crop_scale = 0"),
    ({"seed": -1}, "seed"),  # numpy's generators take no negative seed
    ({"loss": "hinge"}, "loss = 'hinge'"),
    ({"schedule": {"kind": "linear"}}, "'step', 'cosine', 'exponential'"),
    ({"schedule": {"kind": "step", "step": 0}}, "step = 0"),
    ({"schedule": {"kind": "step", "gamma": 1.5}}, "gamma = 1.5"),
    ({"schedule": {"kind": "cosine", "gamma": 0.5}}, "gamma"),
    ({"schedule": "cosine"}, "schedule"),
    ({"batch_size": 120, "images_per_class": 7}, "images_per_class 7 doesn't divide batch_size 120"),
    ({"epochs": 5, "warm_epochs": 5}, "warm_epochs 5"),
]


@pytest.mark.parametrize(("values", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_value_is_refused_in_one_sentence_that_names_it(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        recipe_from(values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "For further information" not in str(caught.value)


def test_unknown_name_says_which_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"no 'lerning_rate'.*lr, proxy_lr_multiplier"):
        recipe_from({"lerning_rate": 0.1})


def test_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().lr = 1.0  # type: ignore[misc]
