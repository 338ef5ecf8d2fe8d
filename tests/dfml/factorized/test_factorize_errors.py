"""Input that `factorize` refuses, with messages on how to fix it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from backbones import vit
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from dfml import factorize
from dfml.errors import InvalidInput


def test_router_count_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(InvalidInput, match=r"num_sub_blocks 5 .*12 heads.*: 1, 2, 3, 4, 6, 12$"):
        factorize(vit(), 5)


def test_router_count_that_does_not_divide_an_efficientnet_names_those_that_do() -> None:
    with pytest.raises(InvalidInput, match=r"num_sub_blocks 5 .*96 expanded channels.*: 1, 2, 3, 4, 6"):
        factorize(timm.create_model("tf_efficientnet_lite0"), 5)


@pytest.mark.parametrize("num_sub_blocks", [0, -1])
def test_fewer_than_one_sub_block_is_refused(num_sub_blocks: int) -> None:
    with pytest.raises(InvalidInput, match=r"1, 2, 3, 4, 6, 12$"):
        factorize(vit(), num_sub_blocks)


@pytest.mark.parametrize("build", [lambda: timm.create_model("test_convnext"), lambda: nn.Linear(2, 2)])
def test_unknown_family_names_those_known(build: Callable[[], nn.Module]) -> None:
    model = build()
    with pytest.raises(
        InvalidInput, match=f"{type(model).__name__} can't be .*VisionTransformer, ResNet, EfficientNet"
    ):
        factorize(model, 2)


def test_squeeze_and_excitation_is_refused_with_a_way_out() -> None:
    with pytest.raises(InvalidInput, match=r"squeeze-and-excitation.*tf_efficientnet_lite0"):
        factorize(timm.create_model("efficientnet_b0"), 2)


@pytest.mark.parametrize("name", ["seresnet50", "resnext50_32x4d", "resnetaa50"])
def test_resnet_of_another_kind_of_block_is_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"block \d of this ResNet.*such as resnet50"):
        factorize(timm.create_model(name, num_classes=0, layers=(1, 1, 1, 1)), 2)


@pytest.mark.parametrize("inside", [{"scale_attn_norm": True}, {"scale_mlp_norm": True}])
def test_vit_with_a_norm_over_all_sub_blocks_is_refused(inside: dict[str, bool]) -> None:
    with pytest.raises(InvalidInput, match=r"block 0 .*without gates or norms inside"):
        factorize(vit(**inside), 2)


@pytest.mark.parametrize("blocks", [[], [2], [-1, 0]])
def test_blocks_that_do_not_exist_are_refused_with_those_that_do(blocks: list[int]) -> None:
    with pytest.raises(InvalidInput, match=r"blocks to factorize: .* has blocks 0 to 1"):
        factorize(vit(), 2, blocks=blocks)


def test_vit_of_another_kind_of_block_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"block 0 is a ResPostBlock.*plain Block"):
        factorize(vit(block_fn=ResPostBlock), 2)


@pytest.mark.parametrize(
    "rates", [{"drop_path_rate": 0.1}, {"proj_drop_rate": 0.1}, {"attn_drop_rate": 0.1}, {"drop_rate": 0.1}]
)
def test_vit_with_dropout_is_refused(rates: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="drop rates of 0"):
        factorize(vit(num_classes=3, **rates), 2)


@pytest.mark.parametrize("rates", [{"drop_path_rate": 0.1}, {"drop_rate": 0.2}])
def test_efficientnet_with_dropout_is_refused(rates: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="drop rates of 0"):
        factorize(timm.create_model("tf_efficientnet_lite0", num_classes=0, **rates), 2)


def test_vit_of_any_image_size_factorizes() -> None:
    images = torch.randn(1, 3, 64, 64)
    assert factorize(vit(img_size=64), 2)(images).shape == (1, 48)
