"""The path through which a model embeds and classifies, by recipe or by argument, and its FLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dfml.data.streaming.loader import Loader
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.embedding_model import EmbeddingModel, build_model
from dfml.errors import InvalidInput
from dfml.evaluate import score
from dfml.evaluate.__main__ import main
from dfml.evaluate.accuracy import accuracy
from dfml.evaluate.final import metrics_on_test
from dfml.evaluate.flops import routed_flops
from dfml.recipe import Recipe, recipe_from
from dfml.saved_model import load, save_model
from dfml.train import Training
from tests.dfml.conftest import TINY
from tests.dfml.factorized.backbones import randomized

CPU = torch.device("cpu")
PICTURES = [Image.effect_noise((40, 40), sigma) for sigma in (20.0, 60.0, 90.0)]


def model_of(inference: str, **more: Any) -> EmbeddingModel:
    """Build a model with the same weights for any path."""
    torch.manual_seed(0)
    model = build_model(recipe_from({**TINY, "inference": inference, **more}), class_names=["a", "b", "c"])
    randomized(model)
    return model.eval()


@pytest.mark.parametrize("inference", ["full", "routed"])
def test_a_stored_model_embeds_through_its_recipes_path_unless_told_otherwise(inference: str, tmp_path: Path) -> None:
    save_model(tmp_path, model_of(inference), {})
    model = load(tmp_path)
    by_path = {path: model.embed(PICTURES, path) for path in ("full", "routed")}
    assert not torch.allclose(by_path["full"], by_path["routed"])
    assert torch.equal(model.embed(PICTURES), by_path[inference])


@pytest.mark.parametrize("inference", ["full", "routed"])
def test_a_classifier_classifies_through_its_recipes_path(inference: str) -> None:
    model = model_of(inference, loss="cross_entropy")
    by_path = {path: model.classify(PICTURES, path) for path in ("full", "routed")}
    assert not torch.allclose(by_path["full"], by_path["routed"])
    assert torch.equal(model.classify(PICTURES), by_path[inference])


@pytest.mark.integration
@pytest.mark.parametrize("inference", ["full", "routed"])
def test_training_is_the_same_and_scored_through_the_recipes_path(inference: str, train_images: ShardedImages) -> None:
    subset = subset_of_classes(train_images)
    recipe = recipe_from({**TINY, "inference": inference, "epochs": 2})
    training = Training(recipe, subset, subset, CPU)
    metrics = list(training.epochs())[-1]
    other = Training(recipe_from({**TINY, "epochs": 2}), subset, None, CPU)
    assert list(other.epochs())[-1]["loss"] == metrics["loss"]
    embeddings = training.embed(subset)
    assert metrics["map_at_r"] == score(embeddings, subset)["map_at_r"]
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(training.model(images), training.model(images, inference))  # type: ignore[arg-type]


def test_the_test_metrics_are_the_recipes_paths_and_a_given_path_overrides_it(
    packed: Path, test_images: ShardedImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    routed, full = model_of("routed"), model_of("full")
    by_path = {path: metrics_on_test(full, str(packed), CPU, path=path) for path in ("full", "routed")}  # type: ignore[arg-type]
    assert by_path["full"] != by_path["routed"]
    assert metrics_on_test(routed, str(packed), CPU) == by_path["routed"]
    assert metrics_on_test(routed, str(packed), CPU, path="full") == by_path["full"]
    save_model(tmp_path, routed, {})
    for flags, path in (([], "routed"), (["--path", "full"], "full")):
        assert main(["--resume", str(tmp_path), "--data", str(packed), "--dataset", "drawn", *flags]) == 0
        assert f"{path} path of" in capsys.readouterr().out
    classifier = model_of("routed", loss="cross_entropy")
    classifier.class_names = tuple(test_images.class_names)
    classifier.classifier = torch.nn.Linear(96, len(classifier.class_names))
    subset = subset_of_classes(test_images)
    loader = Loader(classifier.recipe, [subset])
    assert accuracy(classifier, subset, CPU, loader) == accuracy(classifier, subset, CPU, loader, path="routed")


def test_routed_inference_needs_routers_that_train() -> None:
    with pytest.raises(InvalidInput, match="routed_weight larger than 0"):
        recipe_from({**TINY, "inference": "routed", "routed_weight": 0.0})


@pytest.mark.integration
def test_flops_fall_with_more_routers_and_more_factorized_blocks_and_rise_with_the_test_size() -> None:
    def flops(**values: Any) -> int:
        return routed_flops(Recipe(backbone="test_vit3", image_size=32, **values))

    assert flops(num_sub_blocks=3) < flops(num_sub_blocks=1)
    assert flops(num_sub_blocks=3) < flops(num_sub_blocks=3, blocks="4-8") < flops(num_sub_blocks=1)
    small = {**TINY, "image_size": 32}
    assert routed_flops(recipe_from({**small, "test_size": 64})) > 3 * routed_flops(recipe_from(small))


def test_flops_do_not_disturb_random_numbers() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    routed_flops(recipe_from({**TINY, "image_size": 48}))
    assert torch.equal(torch.rand(3), expected)
