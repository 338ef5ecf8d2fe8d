"""A finished model: saved, loaded, and used in five lines."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import dfml
from dfml.data.format.images import decode
from dfml.embedding_model import EmbeddingModel, build_model
from dfml.errors import InvalidInput
from dfml.pretrained import create_backbone
from dfml.recipe import Recipe, recipe_from
from dfml.saved_model import CONFIG, WEIGHTS, save_model
from tests.dfml.factorized.backbones import randomized


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = ((40, 60), (32, 32), (100, 50))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture
def model(tiny_recipe: Recipe) -> EmbeddingModel:
    torch.manual_seed(0)
    model = build_model(tiny_recipe)
    randomized(model)
    return model


def test_five_lines_from_best_to_embeddings(model: EmbeddingModel, tmp_path: Path) -> None:
    save_model(tmp_path / "best", model, {})
    embeddings = dfml.load(tmp_path / "best").embed(pictures())
    assert embeddings.shape == (3, 96)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("size", [None, 16], ids=["width of the backbone", "linear head"])
def test_loaded_model_embeds_as_the_saved_one(tmp_path: Path, tiny_recipe: Recipe, size: int | None) -> None:
    saved = build_model(tiny_recipe.model_copy(update={"embedding_size": size}))
    randomized(saved)
    save_model(tmp_path, saved, {"dataset": "drawn"})
    loaded = dfml.load(str(tmp_path))
    assert loaded.recipe == saved.recipe
    assert not loaded.training
    assert loaded.embedding_size == (size or 96)
    for path in ("full", "routed"):
        torch.testing.assert_close(loaded.embed(pictures(), path), saved.embed(pictures(), path))


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "deit_tiny_distilled_patch16_224"])
def test_full_path_is_still_the_timm_model_after_save_and_load(tmp_path: Path, backbone: str) -> None:
    weights = tmp_path / "w.safetensors"
    truth = timm.create_model(
        backbone, num_classes=0, **({"img_size": 64} if backbone.startswith("deit") else {})
    ).eval()
    save_file(truth.state_dict(), weights)
    recipe = recipe_from({"backbone": backbone, "weights": str(weights), "image_size": 64, "num_sub_blocks": 3})
    save_model(tmp_path / "best", build_model(recipe), {})
    weights.unlink()  # a loaded model no longer needs the recipe's weights
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = nn.functional.normalize(truth(images), dim=1)
        torch.testing.assert_close(dfml.load(tmp_path / "best")(images), expected, rtol=1e-4, atol=1e-4)


def test_model_in_channels_last_can_be_saved(model: EmbeddingModel, tmp_path: Path) -> None:
    """Training uses channels last."""
    expected = model.embed(pictures())
    save_model(tmp_path, model.to(memory_format=torch.channels_last), {})
    torch.testing.assert_close(dfml.load(tmp_path).embed(pictures()), expected)


def test_config_says_the_recipe_and_the_facts_given(model: EmbeddingModel, tmp_path: Path) -> None:
    save_model(tmp_path, model, {"protocol": "holdout"})
    config = json.loads((tmp_path / CONFIG).read_text())
    assert recipe_from(config["recipe"]) == model.recipe
    assert (config["embedding_size"], config["protocol"]) == (96, "holdout")


def test_embed_does_what_evaluation_does(model: EmbeddingModel) -> None:
    """Compare with torchvision's older transforms: resize, center crop, and normalization."""
    from torchvision import transforms as v1

    cfg = timm.get_pretrained_cfg("test_resnet").to_dict()
    transform = v1.Compose(
        [
            v1.Resize(round(32 / 0.875)),
            v1.CenterCrop(32),
            v1.ToTensor(),
            v1.Normalize(cfg["mean"], cfg["std"]),
        ]
    )
    with torch.inference_mode():
        expected = model(torch.stack([transform(picture) for picture in pictures()]))
    torch.testing.assert_close(model.embed(pictures()), expected, rtol=1e-4, atol=1e-4)


def test_transparent_images_embed_as_they_do_in_training(model: EmbeddingModel) -> None:
    image = Image.new("RGBA", (40, 40), (200, 30, 30, 255))
    image.paste((0, 0, 0, 0), (10, 10, 30, 30))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    torch.testing.assert_close(model.embed([image]), model.embed([decode(stream.getvalue())]))


@pytest.mark.parametrize("there", [WEIGHTS, CONFIG, None])
def test_folder_without_a_model_is_refused(model: EmbeddingModel, tmp_path: Path, there: str | None) -> None:
    save_model(tmp_path, model, {})
    for file in (WEIGHTS, CONFIG):
        if file != there:
            (tmp_path / file).unlink()
    with pytest.raises(InvalidInput, match=f"{tmp_path} has no "):
        dfml.load(tmp_path)


def test_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere has no model\.safetensors"):
        dfml.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "config", [b"{", b"{}", b"[]", b'{"recipe": []}', b'{"recipe": {"unknown": 1}}', b"\xff\xfe\x00"]
)
def test_config_of_something_else_is_refused(model: EmbeddingModel, tmp_path: Path, config: bytes) -> None:
    save_model(tmp_path, model, {})
    (tmp_path / CONFIG).write_bytes(config)
    with pytest.raises(InvalidInput):
        dfml.load(tmp_path)


def test_weights_that_are_damaged_are_refused(model: EmbeddingModel, tmp_path: Path) -> None:
    save_model(tmp_path, model, {})
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InvalidInput, match=r"model\.safetensors"):
        dfml.load(tmp_path)


def test_weights_of_another_model_are_refused(model: EmbeddingModel, tmp_path: Path) -> None:
    save_model(tmp_path, model, {})
    save_file({"something": torch.zeros(2)}, tmp_path / WEIGHTS)
    with pytest.raises(InvalidInput, match=r"model\.safetensors"):
        dfml.load(tmp_path)


def test_test_size_differs_for_a_convolutional_backbone_only() -> None:
    vit = {"backbone": "test_vit", "weights": "random", "num_sub_blocks": 2, "image_size": 32, "test_size": 64}
    with pytest.raises(InvalidInput, match="test_vit takes one size only"):
        build_model(recipe_from(vit))
    conv = recipe_from({**vit, "backbone": "test_resnet"})
    assert build_model(conv).embed(pictures()).shape == (3, 96)


def test_normalization_is_the_backbones() -> None:
    recipe = recipe_from({"backbone": "vit_tiny_patch16_224", "weights": "random", "image_size": 32})
    assert build_model(recipe).normalization == ((0.5,) * 3, (0.5,) * 3)
    recipe = recipe.model_copy(update={"backbone": "deit_tiny_patch16_224"})
    assert build_model(recipe).normalization == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_both_paths_go_through_the_head(tiny_recipe: Recipe) -> None:
    model = build_model(tiny_recipe.model_copy(update={"embedding_size": 8}))
    randomized(model)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        both = model.both_paths(images)
        for path, given in (("full", both.full), ("routed", both.routed)):
            expected = model.backbone(images, path) @ model.head.weight.T + model.head.bias
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                model(images, path), expected / expected.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-4
            )


def test_packaged_weights_are_used_when_training_starts() -> None:
    recipe = recipe_from({"backbone": "tf_efficientnet_lite0", "image_size": 64})
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        truth = create_backbone("tf_efficientnet_lite0", "pretrained", 64).eval()(images)
        given = build_model(recipe).eval()(images)
    torch.testing.assert_close(given, truth / truth.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("dfml", ("torch", "ray", "optuna", "wandb")),
        ("dfml.recipe", ("torch", "ray", "optuna", "wandb")),
        pytest.param(
            "dfml.train",
            ("ray", "optuna", "orchestration"),  # timm itself imports wandb if it is installed
            marks=pytest.mark.integration,  # it imports torch
        ),
    ],
)
def test_import_stays_light(imported: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {imported}; print(*[m for m in {absent} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'factorise'"):
        dfml.factorise  # noqa: B018
