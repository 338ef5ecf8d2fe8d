"""The full path is timm's own model, whatever the number of sub-blocks."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import timm
import torch
from backbones import BACKBONES, ROUTERS, randomized, vit
from safetensors.torch import load_file, save_file
from torch import nn

from dfml import factorize
from dfml.factorized import FactorizedBackbone, allowed_sub_block_counts
from dfml.factorized.backbone import FactorizedBlock
from dfml.pretrained import create_backbone

CASES = [
    (name, num_sub_blocks)
    for name, build in BACKBONES.items()
    for num_sub_blocks in sorted({1, 2, 3, 4, 6}.intersection(allowed_sub_block_counts(build())))
]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "num_sub_blocks"), CASES)
@torch.inference_mode()
def test_full_path_is_the_timm_model(name: str, num_sub_blocks: int, images: torch.Tensor) -> None:
    model = BACKBONES[name]()
    torch.testing.assert_close(
        factorize(model, num_sub_blocks).eval()(images, "full"), model(images), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", BACKBONES)
@torch.inference_mode()
def test_both_paths_in_one_pass_are_the_two_passes(name: str, images: torch.Tensor) -> None:
    backbone = factorize(BACKBONES[name](), ROUTERS[name]).eval()
    both = backbone(images, "both")
    torch.testing.assert_close(both.full, backbone(images, "full"), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.routed, backbone(images, "routed"), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both.full, both.routed, rtol=1e-2)


@pytest.mark.parametrize("name", BACKBONES)
@torch.inference_mode()
def test_with_one_router_both_paths_are_the_same_and_the_distance_is_0(name: str, images: torch.Tensor) -> None:
    both = factorize(BACKBONES[name](), 1).eval()(images, "both")
    torch.testing.assert_close(both.routed, both.full, rtol=1e-4, atol=1e-4)
    assert float(both.distance) < 1e-2


@pytest.mark.parametrize("name", BACKBONES)
def test_factorize_leaves_the_given_model_as_it_was(name: str, images: torch.Tensor) -> None:
    model = BACKBONES[name]()
    state, before = deepcopy(model.state_dict()), model(images).detach()
    backbone = factorize(model, ROUTERS[name])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images), before)


@torch.inference_mode()
def test_pretrained_efficientnet_factorizes_exactly() -> None:
    model = create_backbone("tf_efficientnet_lite0", "pretrained", 64).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    backbone = factorize(model, 3).eval()
    torch.testing.assert_close(backbone(images), model(images), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_batch_norms_keep_their_statistics_in_training(images: torch.Tensor) -> None:
    backbone = factorize(BACKBONES["EfficientNet-Lite"](), 2).train()
    buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(images, "both")
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in backbone.named_buffers())


@torch.inference_mode()
def test_full_path_in_training_mode_is_still_the_timm_model(images: torch.Tensor) -> None:
    model = BACKBONES["EfficientNet-Lite"]()
    torch.testing.assert_close(factorize(model, 2).train()(images), model(images), rtol=1e-4, atol=1e-4)


def test_sub_blocks_start_with_equal_parts_of_the_bias() -> None:
    model = vit()
    backbone = factorize(model, 4)
    for block, factorized in zip(model.blocks, backbone.blocks, strict=True):
        torch.testing.assert_close(factorized.attn_sum.bias, (block.attn.proj.bias / 4).expand(4, -1))
        torch.testing.assert_close(factorized.mlp_sum.bias, (block.mlp.fc2.bias / 4).expand(4, -1))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_has_a_gradient_from_both_paths(name: str, sparse: bool, images: torch.Tensor) -> None:
    """DistributedDataParallel waits for all of them."""
    backbone = factorize(BACKBONES[name](), ROUTERS[name])
    backbone.sparse = sparse
    both = backbone(images, "both")
    (both.full.square().sum() + both.routed.square().sum() + both.distance).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_num_features_is_the_width_of_the_features(images: torch.Tensor) -> None:
    for build in BACKBONES.values():
        backbone = factorize(build(), 1)
        assert backbone(images).shape == (3, backbone.num_features)


def test_allowed_sub_block_counts_divide_heads_and_hidden_units() -> None:
    assert allowed_sub_block_counts(vit(num_heads=6, embed_dim=48)) == [1, 2, 3, 6]


def test_allowed_sub_block_counts_divide_the_expanded_channels_of_every_block() -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    widths = [block.conv_pwl.in_channels for stage in list(model.blocks)[1:] for block in stage]
    assert allowed_sub_block_counts(model) == [k for k in range(1, 97) if all(width % k == 0 for width in widths)]


def saved_and_loaded(model: nn.Module, num_sub_blocks: int, folder: Path) -> FactorizedBackbone:
    """Save the factorization of `model`, and load it into another whose parameters are all 0."""
    state = {name: tensor.contiguous() for name, tensor in factorize(model, num_sub_blocks).state_dict().items()}
    save_file(state, folder / "w.safetensors")
    another = factorize(model, num_sub_blocks).eval()
    for parameter in another.parameters():
        parameter.zero_()
    another.load_state_dict(load_file(folder / "w.safetensors"))
    return another


@pytest.mark.parametrize(("name", "num_sub_blocks"), CASES)
@torch.inference_mode()
def test_full_path_survives_a_save_and_a_load(
    name: str, num_sub_blocks: int, tmp_path: Path, images: torch.Tensor
) -> None:
    model = BACKBONES[name]()
    another = saved_and_loaded(model, num_sub_blocks, tmp_path)
    torch.testing.assert_close(another(images), model(images), rtol=1e-4, atol=1e-4)


# timm's own models at their own image sizes.
TIMM = (
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_base_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_wee_patch16_reg1_gap_256",
    "resnet18",
    "resnet50",
    "tf_efficientnet_lite0",
    "mobilenetv2_100",
)


@pytest.mark.integration
@pytest.mark.parametrize("name", TIMM)
@torch.inference_mode()
def test_full_path_of_timms_models_in_their_own_size(name: str, tmp_path: Path) -> None:
    size = timm.get_pretrained_cfg(name).input_size[1]
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    # A transformer's blocks are all alike, so three are enough; the next test has a whole one.
    depth = {"depth": 3} if name.startswith(("vit_", "deit")) else {}
    model = randomized(timm.create_model(name, num_classes=0, **depth))
    expected, allowed = model(images), allowed_sub_block_counts(model)
    assert allowed[:2] != [1]
    for num_sub_blocks in (1, max({2, 3, 4, 6}.intersection(allowed))):  # small models cover those between
        torch.testing.assert_close(factorize(model, num_sub_blocks).eval()(images), expected, rtol=1e-4, atol=1e-4)
    another = saved_and_loaded(model, allowed[1], tmp_path)
    torch.testing.assert_close(another(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.integration
@torch.inference_mode()
def test_embedding_of_a_distilled_deit_is_the_mean_of_both_class_tokens() -> None:
    model = randomized(timm.create_model("deit_small_distilled_patch16_224", num_classes=0))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    given = factorize(model, 3).eval()(images)
    torch.testing.assert_close(given, model.forward_features(images)[:, :2].mean(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("blocks", [[0], [1]], ids=["first", "second"])
@torch.inference_mode()
def test_some_blocks_may_stay_dense(name: str, blocks: list[int], images: torch.Tensor) -> None:
    model = BACKBONES[name]()
    backbone = factorize(model, ROUTERS[name], blocks=blocks).eval()
    assert [i for i, block in enumerate(backbone.blocks) if isinstance(block, FactorizedBlock)] == blocks
    torch.testing.assert_close(backbone(images), model(images), rtol=1e-4, atol=1e-4)
    both = backbone(images, "both")
    torch.testing.assert_close(both.full, model(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.routed, backbone(images, "routed"), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both.full, both.routed, rtol=1e-3)


def test_allowed_sub_block_counts_are_those_of_the_blocks_asked_for() -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    assert allowed_sub_block_counts(model, [0])[-1] == 96  # 16 channels, expanded six times
    assert max(allowed_sub_block_counts(model)) == 48


@pytest.mark.parametrize("name", BACKBONES)
def test_checkpointing_changes_no_gradient(name: str, images: torch.Tensor) -> None:
    backbone = factorize(BACKBONES[name](), ROUTERS[name]).double()
    gradients = []
    for checkpointing in (False, True):
        backbone.checkpointing = checkpointing
        backbone.zero_grad()
        both = backbone(images.double(), "both")
        (
            both.full.square().sum() + both.routed.square().sum() + both.distance + both.routing.probability.sum()
        ).backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
