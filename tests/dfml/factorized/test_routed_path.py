"""The routed path and the reconstruction distance, against loops over tokens and sub-blocks written from DESIGN §2.

N tokens, C channels, H heads of width d, K sub-blocks; everything in float64, so that nothing hides in rounding.
"""

from __future__ import annotations

import math

import pytest
import torch
from backbones import BACKBONES, lite0
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn
from torch.nn import functional as F

from dfml import factorize
from dfml.factorized import FactorizedBackbone

VITS = [name for name in BACKBONES if name not in ("EfficientNet-Lite0", "ViT, normalised queries and keys")]


def pair(name: str, routers: int) -> tuple[nn.Module, FactorizedBackbone]:
    """A timm model and its factorization, whose routers choose clearly and whose biases have been trained apart."""
    torch.manual_seed(2)
    model = BACKBONES[name]().double()
    backbone = factorize(model, routers).double().eval()
    with torch.no_grad():
        for parameter_name, parameter in backbone.named_parameters():
            if parameter_name.endswith("_sum.bias"):
                moved = 0.2 * torch.randn_like(parameter)
                parameter += moved - moved.mean(dim=0)  # their sum, and so the full path, stays timm's
            if "router." in parameter_name:
                parameter.copy_(torch.randn_like(parameter))
    return model, backbone


def pictures(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- ViT -------------------------------------------------------------------------------------------------------------


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def gamma(scale: nn.Module) -> Tensor | float:
    return getattr(scale, "gamma", 1.0)


def attention_sub_blocks(block: nn.Module, z: Tensor, biases: Tensor) -> list[Tensor]:
    """a_k (N, C) for each k: its heads' rows of the qkv weight, its columns of the projection; z (N, C)."""
    attn, (tokens, width), routers = block.attn, z.shape, len(biases)
    d = width // attn.num_heads
    found = []
    for k in range(routers):
        outputs = []
        for head in range(k * attn.num_heads // routers, (k + 1) * attn.num_heads // routers):
            q, key, v = (
                F.linear(
                    z,
                    attn.qkv.weight[start : start + d],
                    None if attn.qkv.bias is None else attn.qkv.bias[start : start + d],
                )
                for start in (head * d, width + head * d, 2 * width + head * d)
            )
            o = torch.zeros(tokens, d, dtype=z.dtype)
            for n in range(tokens):
                weight = torch.exp(torch.stack([q[n] @ key[m] for m in range(tokens)]) / math.sqrt(d))
                o[n] = sum(weight[m] / weight.sum() * v[m] for m in range(tokens))
            outputs.append(o)
        part = slice(k * width // routers, (k + 1) * width // routers)
        found.append(gamma(block.ls1) * (torch.cat(outputs, 1) @ attn.proj.weight[:, part].T + biases[k]))
    return found


def mlp_sub_blocks(block: nn.Module, z: Tensor, biases: Tensor) -> list[Tensor]:
    """m_k (N, C) for each k: its hidden units' rows of the first weight, and columns of the second."""
    mlp, routers, found = block.mlp, len(biases), []
    hidden = mlp.fc2.in_features
    for k in range(routers):
        part = slice(k * hidden // routers, (k + 1) * hidden // routers)
        h = F.linear(z, mlp.fc1.weight[part], None if mlp.fc1.bias is None else mlp.fc1.bias[part])
        h = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))
        found.append(gamma(block.ls2) * (h @ mlp.fc2.weight[:, part].T + biases[k]))
    return found


def tokens_of(model: nn.Module, image: Tensor) -> Tensor:
    """timm's own stem: the (N, C) tokens that enter the first block."""
    return model._pos_embed(model.patch_embed(image[None]))[0]


def add_chosen(x: Tensor, sub_blocks: list[Tensor], logits: Tensor) -> Tensor:
    """Every token plus what the one sub-block that its router chose gives for it."""
    return torch.stack([x[n] + sub_blocks[int(logits[n].argmax())][n] for n in range(len(x))])


@pytest.mark.parametrize("routers", [1, 3])
@pytest.mark.parametrize("name", VITS)
@torch.inference_mode()
def test_routed_vit_is_a_loop_over_tokens_and_sub_blocks(name: str, routers: int) -> None:
    model, backbone = pair(name, routers)
    images = pictures(2, 32)
    expected, chosen = [], set()
    for image in images:
        x = tokens_of(model, image)
        for block, factorized in zip(model.blocks, backbone.blocks, strict=True):
            z = layer_norm(x, block.norm1)
            logits = z @ factorized.attn_router.weight.T  # the attention's router reads LN1(x)
            x = add_chosen(x, attention_sub_blocks(block, z, factorized.attn_sum.bias), logits)
            chosen |= set(logits.argmax(1).tolist())
            logits = x @ factorized.mlp_router.weight.T  # the MLP's reads the stream, not normalised
            x = add_chosen(x, mlp_sub_blocks(block, layer_norm(x, block.norm2), factorized.mlp_sum.bias), logits)
        expected.append(model.forward_head(model.norm(x[None]), pre_logits=True)[0])
    assert chosen == set(range(routers))  # else the test would say little
    torch.testing.assert_close(backbone(images, "routed"), torch.stack(expected), rtol=1e-9, atol=1e-9)


# --- EfficientNet ----------------------------------------------------------------------------------------------------


def batch_norm(h: Tensor, bn: nn.BatchNorm2d, part: slice = slice(None)) -> Tensor:
    mean, var, weight, bias = (
        tensor[part][:, None, None] for tensor in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (h - mean) / (var + bn.eps).sqrt() * weight + bias


def same_padded(h: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME: as many outputs as ceil(side / stride), the odd pixel of padding at the end."""
    total = max((math.ceil(h.shape[-1] / stride) - 1) * stride + kernel - h.shape[-1], 0)
    return F.pad(h, (total // 2, total - total // 2) * 2)


def projected_sub_blocks(block: InvertedResidual, x: Tensor, routers: int) -> list[Tensor]:
    """W_k h_k (1, C, H, W) for each k, before the last batch norm: its channels of expansion, depthwise and projection."""
    found = []
    for k in range(routers):
        expanded = block.conv_pwl.in_channels
        part = slice(k * expanded // routers, (k + 1) * expanded // routers)
        h = batch_norm(F.conv2d(x, block.conv_pw.weight[part]), block.bn1, part).clamp(0, 6)
        kernel, stride = block.conv_dw.kernel_size[0], block.conv_dw.stride[0]
        h = F.conv2d(same_padded(h, kernel, stride), block.conv_dw.weight[part], stride=stride, groups=h.shape[1])
        h = batch_norm(h, block.bn2, part).clamp(0, 6)
        found.append(F.conv2d(h, block.conv_pwl.weight[:, part]))
    return found


def cut(model: nn.Module) -> tuple[nn.Sequential, list[InvertedResidual]]:
    """The stages before the first inverted residual, and the inverted residuals."""
    stages = list(model.blocks)
    return stages[0], [block for stage in stages[1:] for block in stage]


@pytest.mark.parametrize("routers", [1, 3])
@torch.inference_mode()
def test_routed_efficientnet_is_a_loop_over_images_and_sub_blocks(routers: int) -> None:
    model, backbone = pair("EfficientNet-Lite0", routers)
    images = pictures(3, 64)
    first, blocks = cut(model)
    expected, chosen = [], set()
    for image in images:
        x = first(model.bn1(model.conv_stem(image[None])))
        for block, factorized in zip(blocks, backbone.blocks, strict=True):
            k = int((factorized.router.weight @ x[0].mean((1, 2))).argmax())
            chosen.add(k)
            y = batch_norm(projected_sub_blocks(block, x, routers)[k], block.bn3)
            x = x + y if x.shape == y.shape else y
        expected.append(model.bn2(model.conv_head(x)).mean((2, 3))[0])
    assert chosen == set(range(routers))
    torch.testing.assert_close(backbone(images, "routed"), torch.stack(expected), rtol=1e-9, atol=1e-9)


# --- Reconstruction distance -----------------------------------------------------------------------------------------


def straight_through(z: Tensor, weight: Tensor) -> Tensor:
    """onehot(argmax p) forward, p backward, on a detached input."""
    p = torch.softmax(z.detach() @ weight.T, dim=-1)
    return (torch.eye(len(weight), dtype=p.dtype)[p.argmax(-1)] - p).detach() + p


def reconstructed(stream: Tensor, r: Tensor, sub_blocks: list[Tensor]) -> Tensor:
    """x̂ = sg(stream) + Σ_k r_k sg(a_k); r (N, K)."""
    return stream.detach() + sum(r[..., k, None] * a.detach() for k, a in enumerate(sub_blocks))


def vit_distance(model: nn.Module, backbone: FactorizedBackbone, images: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for image in images:
        full = routed = tokens_of(model, image).detach()
        for block, factorized in zip(model.blocks, backbone.blocks, strict=True):
            full = (full + block.ls1(block.attn(block.norm1(full[None])))[0]).detach()
            z = layer_norm(routed, block.norm1)
            r = straight_through(z, factorized.attn_router.weight)
            routed = reconstructed(routed, r, attention_sub_blocks(block, z, factorized.attn_sum.bias))
            total = total + (routed - full).square().sum(-1).sqrt().sum()
            routed = routed.detach()

            full = (full + block.ls2(block.mlp(block.norm2(full[None])))[0]).detach()
            r = straight_through(routed, factorized.mlp_router.weight)
            normed = layer_norm(routed, block.norm2)
            routed = reconstructed(routed, r, mlp_sub_blocks(block, normed, factorized.mlp_sum.bias))
            total = total + (routed - full).square().sum(-1).sqrt().sum()
            routed = routed.detach()
    return total / len(model.blocks)


def efficientnet_distance(model: nn.Module, backbone: FactorizedBackbone, images: Tensor) -> Tensor:
    """The tokens of a convolutional stream are its positions: the norm is taken over the channels at each."""
    first, blocks = cut(model)
    total = torch.zeros((), dtype=torch.float64)
    for image in images:
        full = routed = first(model.bn1(model.conv_stem(image[None]))).detach()
        for block, factorized in zip(blocks, backbone.blocks, strict=True):
            full = block(full).detach()
            r = straight_through(routed.mean((2, 3))[0], factorized.router.weight)  # (K,)
            parts = projected_sub_blocks(block, routed, backbone.routers)
            summed = sum(r[k] * part.detach() for k, part in enumerate(parts))
            bn = block.bn3
            y = (summed - bn.running_mean[:, None, None]) * (bn.weight / (bn.running_var + bn.eps).sqrt()).detach()[
                :, None, None
            ] + bn.bias.detach()[:, None, None]
            routed = y + routed if block.has_skip else y
            total = total + (routed - full).square().sum(1).sqrt().sum()
            routed = routed.detach()
    return total / len(blocks)


def check_distance(given: Tensor, expected: Tensor, backbone: FactorizedBackbone) -> None:
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=0.0)
    routers = {name: parameter for name, parameter in backbone.named_parameters() if "router." in name}
    truth = torch.autograd.grad(expected, list(routers.values()))
    assert all(float(gradient.abs().max()) > 0 for gradient in truth)
    given.backward()
    for (name, parameter), gradient in zip(routers.items(), truth, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    others = [parameter for name, parameter in backbone.named_parameters() if name not in routers]
    assert others
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in others)


@pytest.mark.parametrize("name", VITS)
def test_distance_of_a_vit_and_its_gradient(name: str) -> None:
    model, backbone = pair(name, 3)
    images = pictures(2, 32)
    check_distance(backbone(images, "both").distance, vit_distance(model, backbone, images), backbone)


def test_distance_of_an_efficientnet_and_its_gradient() -> None:
    model, backbone = pair("EfficientNet-Lite0", 3)
    images = pictures(2, 64)
    check_distance(backbone(images, "both").distance, efficientnet_distance(model, backbone, images), backbone)


def test_distance_has_a_gradient_where_both_streams_are_equal() -> None:
    """K = 1 at the first block: the norm's subgradient there is 0, not NaN."""
    backbone = factorize(BACKBONES["ViT, class token"](), 1)
    backbone(pictures(2, 32).float(), "both").distance.backward()
    for name, parameter in backbone.named_parameters():
        if "router." in name:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


def test_task_loss_on_the_routed_path_reaches_the_routers_through_the_straight_through_choice() -> None:
    """The gradient of a loss on the first block's output alone, against autograd on explicit sub-blocks."""
    model, backbone = pair("ViT, class token", 3)
    image = pictures(1, 32)
    x = tokens_of(model, image[0]).detach()
    block, factorized = model.blocks[0], backbone.blocks[0]
    slopes = pictures(1, 48)[0, 0][: len(x)]
    z = layer_norm(x, block.norm1)
    r = straight_through(z, factorized.attn_router.weight)
    x1 = x + sum(r[:, k, None] * a for k, a in enumerate(attention_sub_blocks(block, z, factorized.attn_sum.bias)))
    p = torch.softmax(x1 @ factorized.mlp_router.weight.T, dim=-1)  # x1 isn't detached here: the task loss flows on
    r = (torch.eye(3, dtype=p.dtype)[p.argmax(-1)] - p).detach() + p
    m = mlp_sub_blocks(block, layer_norm(x1, block.norm2), factorized.mlp_sum.bias)
    expected = ((x1 + sum(r[:, k, None] * part for k, part in enumerate(m))) * slopes).sum()
    weights = [
        factorized.attn_router.weight,
        factorized.mlp_router.weight,
        factorized.attn_sum.bias,
        factorized.mlp_sum.bias,
    ]
    given = (factorized(x[None], "routed")[0][0] * slopes).sum()
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(
        torch.autograd.grad(given, weights), torch.autograd.grad(expected, weights), rtol=1e-8, atol=1e-10
    )


def test_lite0_has_blocks_with_and_without_a_skip_and_with_a_stride() -> None:
    """What the EfficientNet tests above rely on."""
    blocks = cut(lite0())[1]
    assert {block.has_skip for block in blocks} == {True, False}
    assert {block.conv_dw.stride[0] for block in blocks} == {1, 2}
