"""The routed path and the reconstruction distance, against loops over tokens and sub-blocks.

N tokens, C channels, H heads of width d, K sub-blocks, in float64 so that rounding hides no error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from backbones import BACKBONES, lite, lite0
from timm.layers import Conv2dSame
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from dfml import factorize
from dfml.factorized import FactorizedBackbone

VITS = [name for name in BACKBONES if name.startswith(("ViT", "DeiT")) and name != "ViT, normalized queries and keys"]
CONVOLUTIONAL = {  # and K
    "EfficientNet-Lite": 3,
    "MobileNetV2": 3,
    "ResNet, basic blocks": 4,
    "ResNet, bottlenecks": 4,
    "EfficientNet-Lite0": 3,
}
every_convolutional = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.integration] if name == "EfficientNet-Lite0" else [])
        for name in CONVOLUTIONAL  # all but Lite0 itself are thin, and quick
    ],
)


def pair(name: str, num_sub_blocks: int) -> tuple[nn.Module, FactorizedBackbone]:
    """Return a timm model, and its factorization with decided routers and unequal biases."""
    torch.manual_seed(4)
    model = {**BACKBONES, "EfficientNet-Lite0": lite0}[name]().double()
    backbone = factorize(model, num_sub_blocks).double().eval()
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


# --- ViT ------------------------------------------------------------------------------------------


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def gamma(scale: nn.Module) -> Tensor | float:
    return getattr(scale, "gamma", 1.0)


def attention_sub_blocks(block: nn.Module, z: Tensor, biases: Tensor) -> list[Tensor]:
    """Return a_k (N, C) of z (N, C) for each k, from its heads' rows of qkv and columns of proj."""
    attn, (tokens, width), num_sub_blocks = block.attn, z.shape, len(biases)
    d = width // attn.num_heads
    found = []
    for k in range(num_sub_blocks):
        outputs = []
        for head in range(k * attn.num_heads // num_sub_blocks, (k + 1) * attn.num_heads // num_sub_blocks):
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
        part = slice(k * width // num_sub_blocks, (k + 1) * width // num_sub_blocks)
        found.append(gamma(block.ls1) * (torch.cat(outputs, 1) @ attn.proj.weight[:, part].T + biases[k]))
    return found


def mlp_sub_blocks(block: nn.Module, z: Tensor, biases: Tensor) -> list[Tensor]:
    """Return m_k (N, C) for each k, from its hidden units' rows of fc1 and columns of fc2."""
    mlp, num_sub_blocks, found = block.mlp, len(biases), []
    hidden = mlp.fc2.in_features
    for k in range(num_sub_blocks):
        part = slice(k * hidden // num_sub_blocks, (k + 1) * hidden // num_sub_blocks)
        h = F.linear(z, mlp.fc1.weight[part], None if mlp.fc1.bias is None else mlp.fc1.bias[part])
        h = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))
        found.append(gamma(block.ls2) * (h @ mlp.fc2.weight[:, part].T + biases[k]))
    return found


def tokens_of(model: nn.Module, image: Tensor) -> Tensor:
    """Return the tokens (N, C) that enter the first block, from timm's own stem."""
    return model._pos_embed(model.patch_embed(image[None]))[0]


def add_chosen(x: Tensor, sub_blocks: list[Tensor], logits: Tensor) -> Tensor:
    """A token receives only the output of the sub-block that its router chose."""
    return torch.stack([x[n] + sub_blocks[int(logits[n].argmax())][n] for n in range(len(x))])


@pytest.mark.parametrize("num_sub_blocks", [1, 3])
@pytest.mark.parametrize("name", VITS)
@torch.inference_mode()
def test_routed_vit_is_a_loop_over_tokens_and_sub_blocks(name: str, num_sub_blocks: int) -> None:
    model, backbone = pair(name, num_sub_blocks)
    images = pictures(2, 32)
    expected, chosen = [], set()
    for image in images:
        x = tokens_of(model, image)
        for block, factorized in zip(model.blocks, backbone.blocks, strict=True):
            z = layer_norm(x, block.norm1)
            logits = z @ factorized.attn_router.weight.T  # the attention's router reads LN1(x)
            x = add_chosen(x, attention_sub_blocks(block, z, factorized.attn_sum.bias), logits)
            chosen |= set(logits.argmax(1).tolist())
            logits = x @ factorized.mlp_router.weight.T  # the MLP's reads the stream, not normalized
            x = add_chosen(x, mlp_sub_blocks(block, layer_norm(x, block.norm2), factorized.mlp_sum.bias), logits)
        expected.append(model.forward_head(model.norm(x[None]), pre_logits=True)[0])
    assert chosen == set(range(num_sub_blocks))  # else the test would prove little
    torch.testing.assert_close(backbone(images, "routed"), torch.stack(expected), rtol=1e-9, atol=1e-9)


# --- Convolutional families -----------------------------------------------------------------------


def batch_norm(h: Tensor, bn: nn.BatchNorm2d, part: slice = slice(None)) -> Tensor:
    mean, var, weight, bias = (
        tensor[part][:, None, None] for tensor in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (h - mean) / (var + bn.eps).sqrt() * weight + bias


def convolved(x: Tensor, conv: nn.Conv2d, out: slice = slice(None), into: slice = slice(None)) -> Tensor:
    """Return the output channels `out` of a convolution of x, its input channels `into`."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    before = after = padding
    if isinstance(conv, Conv2dSame):  # TensorFlow's: ceil(side / stride) outputs, the odd pixel of padding at the end
        total = max((math.ceil(x.shape[-1] / stride) - 1) * stride + kernel - x.shape[-1], 0)
        before, after = total // 2, total - total // 2
    weight = conv.weight[out][:, into]
    groups = x.shape[1] if conv.groups > 1 else 1
    return F.conv2d(F.pad(x, (before, after) * 2), weight, stride=stride, groups=groups)


def projected_sub_blocks(block: nn.Module, x: Tensor, num_sub_blocks: int) -> list[Tensor]:
    """Return W_k h_k (1, C, H, W) for each k, before the last batch norm."""
    last = last_of(block)[0]
    hidden = last.in_channels
    found = []
    for k in range(num_sub_blocks):
        part = slice(k * hidden // num_sub_blocks, (k + 1) * hidden // num_sub_blocks)
        if isinstance(block, InvertedResidual):
            h = batch_norm(convolved(x, block.conv_pw, part), block.bn1, part).clamp(0, 6)
            h = batch_norm(convolved(h, block.conv_dw, part), block.bn2, part).clamp(0, 6)
        elif isinstance(block, Bottleneck):
            shared = batch_norm(convolved(x, block.conv1), block.bn1).clamp(min=0)
            h = batch_norm(convolved(shared, block.conv2, part), block.bn2, part).clamp(min=0)
        else:
            h = batch_norm(convolved(x, block.conv1, part), block.bn1, part).clamp(min=0)
        found.append(convolved(h, last, into=part))
    return found


def last_of(block: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    if isinstance(block, InvertedResidual):
        return block.conv_pwl, block.bn3
    return (block.conv3, block.bn3) if isinstance(block, Bottleneck) else (block.conv2, block.bn2)


def finished(block: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    if isinstance(block, InvertedResidual):
        return x + y if x.shape == y.shape else y
    shortcut = x if block.downsample is None else batch_norm(convolved(x, block.downsample[0]), block.downsample[1])
    return (y + shortcut).clamp(min=0)


def cut(model: nn.Module, image: Tensor) -> tuple[Tensor, list[nn.Module]]:
    """Return the input of the first factorized block, and timm's blocks from there on."""
    if isinstance(model, ResNet):
        x = model.maxpool(batch_norm(convolved(image[None], model.conv1), model.bn1).clamp(min=0))
        return x, [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    stages = list(model.blocks)
    return stages[0](model.bn1(model.conv_stem(image[None]))), [block for stage in stages[1:] for block in stage]


def features(model: nn.Module, x: Tensor) -> Tensor:
    return (x if isinstance(model, ResNet) else model.bn2(model.conv_head(x))).mean((2, 3))[0]


@pytest.mark.parametrize("num_sub_blocks", ["one", "several"])
@every_convolutional
@torch.inference_mode()
def test_routed_convolutional_backbone_is_a_loop_over_images_and_sub_blocks(name: str, num_sub_blocks: str) -> None:
    count = 1 if num_sub_blocks == "one" else CONVOLUTIONAL[name]
    model, backbone = pair(name, count)
    images = pictures(8, 64)
    expected, chosen = [], set()
    for image in images:
        x, blocks = cut(model, image)
        for block, factorized in zip(blocks, backbone.blocks, strict=True):
            k = int((factorized.router.weight @ x[0].mean((1, 2))).argmax())
            chosen.add(k)
            x = finished(block, batch_norm(projected_sub_blocks(block, x, count)[k], last_of(block)[1]), x)
        expected.append(features(model, x))
    assert len(chosen) >= min(count, 3)  # else the test would prove little
    torch.testing.assert_close(backbone(images, "routed"), torch.stack(expected), rtol=1e-9, atol=1e-9)


# --- Reconstruction distance ----------------------------------------------------------------------


def straight_through(z: Tensor, weight: Tensor) -> Tensor:
    """Return onehot(argmax p), with the gradient of p, on a detached input."""
    p = torch.softmax(z.detach() @ weight.T, dim=-1)
    return (torch.eye(len(weight), dtype=p.dtype)[p.argmax(-1)] - p).detach() + p


def reconstructed(stream: Tensor, r: Tensor, sub_blocks: list[Tensor]) -> Tensor:
    """Return x̂ = sg(stream) + Σ_k r_k sg(a_k) for r (N, K)."""
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


def convolutional_distance(model: nn.Module, backbone: FactorizedBackbone, images: Tensor) -> Tensor:
    """The tokens of a convolutional stream are its positions: norms are taken over channels."""
    total = torch.zeros((), dtype=torch.float64)
    for image in images:
        x, blocks = cut(model, image)
        full = routed = x.detach()
        for block, factorized in zip(blocks, backbone.blocks, strict=True):
            full = block(full).detach()
            r = straight_through(routed.mean((2, 3))[0], factorized.router.weight)  # (K,)
            parts = projected_sub_blocks(block, routed, backbone.num_sub_blocks)
            summed = sum(r[k] * part.detach() for k, part in enumerate(parts))
            bn = last_of(block)[1]
            y = (summed - bn.running_mean[:, None, None]) * (bn.weight / (bn.running_var + bn.eps).sqrt()).detach()[
                :, None, None
            ] + bn.bias.detach()[:, None, None]
            routed = finished(block, y, routed)
            total = total + (routed - full).square().sum(1).sqrt().sum()
            routed = routed.detach()
        blocks_count = len(blocks)
    return total / blocks_count


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


@every_convolutional
def test_distance_of_a_convolutional_backbone_and_its_gradient(name: str) -> None:
    model, backbone = pair(name, CONVOLUTIONAL[name])
    images = pictures(2, 64)
    check_distance(backbone(images, "both").distance, convolutional_distance(model, backbone, images), backbone)


def test_distance_has_a_gradient_where_both_streams_are_equal() -> None:
    """K = 1 at the first block: the norm's subgradient there is 0, not NaN."""
    backbone = factorize(BACKBONES["ViT, class token"](), 1)
    backbone(pictures(2, 32).float(), "both").distance.backward()
    for name, parameter in backbone.named_parameters():
        if "router." in name:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


def weighted(r: Tensor, sub_blocks: list[Tensor], sparse: bool) -> Tensor:
    """Return Σ_k r_k a_k; in sparse training, a zero r_k has no gradient."""
    if sparse:
        r = torch.where(r.detach().round().bool(), r, r.detach())
    return sum(r[:, k, None] * a for k, a in enumerate(sub_blocks))


def softmax_choice(logits: Tensor) -> Tensor:
    """Return onehot(argmax p), with the gradient of p; `straight_through` without detaching z."""
    p = torch.softmax(logits, dim=-1)
    return (torch.eye(p.shape[-1], dtype=p.dtype)[p.argmax(-1)] - p).detach() + p


@pytest.mark.parametrize("sparse", [False, True], ids=["exact", "sparse"])
@pytest.mark.parametrize("name", VITS)
def test_gradients_of_a_task_loss_through_a_routed_vit_block(name: str, sparse: bool) -> None:
    """Compare the gradients of stream, routers, biases and earlier weights with autograd's."""
    model, backbone = pair(name, 3)
    x = tokens_of(model, pictures(1, 32)[0]).detach().requires_grad_()
    block, factorized = model.blocks[0], backbone.blocks[0]
    slopes = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    z = layer_norm(x, block.norm1)
    r = softmax_choice(z @ factorized.attn_router.weight.T)
    x1 = x + weighted(r, attention_sub_blocks(block, z, factorized.attn_sum.bias), sparse)
    r = softmax_choice(x1 @ factorized.mlp_router.weight.T)
    m = mlp_sub_blocks(block, layer_norm(x1, block.norm2), factorized.mlp_sum.bias)
    expected = ((x1 + weighted(r, m, sparse)) * slopes).sum()
    given = (factorized.both(x[None], x[None], sparse).routed[0] * slopes).sum()
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=0.0)
    own = [
        factorized.attn_router.weight,
        factorized.mlp_router.weight,
        factorized.attn_sum.bias,
        factorized.mlp_sum.bias,
    ]
    timms = [(block.attn.qkv.weight, factorized.attn.qkv.weight), (block.attn.proj.weight, factorized.attn_sum.weight)]
    timms += [(block.mlp.fc1.weight, factorized.mlp.fc1.weight), (block.mlp.fc2.weight, factorized.mlp_sum.weight)]
    truth = torch.autograd.grad(expected, [x, *own, *(theirs for theirs, _ in timms)])
    found = torch.autograd.grad(given, [x, *own, *(ours for _, ours in timms)])
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sparse", [False, True], ids=["exact", "sparse"])
@every_convolutional
def test_gradients_of_a_task_loss_through_a_routed_convolutional_block(name: str, sparse: bool) -> None:
    num_sub_blocks = CONVOLUTIONAL[name]
    model, backbone = pair(name, num_sub_blocks)
    inputs = [cut(model, image) for image in pictures(5, 64)]
    x = torch.cat([entering for entering, _ in inputs]).detach().requires_grad_()
    block, factorized = inputs[0][1][0], backbone.blocks[0]
    r = softmax_choice(x.mean((2, 3)) @ factorized.router.weight.T)  # (B, K)
    if sparse:
        r = torch.where(r.detach().round().bool(), r, r.detach())
    parts = projected_sub_blocks(block, x, num_sub_blocks)
    y = batch_norm(sum(r[:, k, None, None, None] * part for k, part in enumerate(parts)), last_of(block)[1])
    out = finished(block, y, x)
    slopes = torch.randn(out.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    given = (factorized.both(x, x, sparse).routed * slopes).sum()
    expected = (out * slopes).sum()
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=0.0)
    theirs = dict(block.named_parameters())
    ours = dict(factorized.block.named_parameters())
    truth = torch.autograd.grad(expected, [x, factorized.router.weight, *theirs.values()])
    found = torch.autograd.grad(given, [x, factorized.router.weight, *(ours[n] for n in theirs)])
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("build", [lite, lite0])
def test_lite_has_blocks_with_and_without_a_skip_and_with_a_stride(build: Callable[[], nn.Module]) -> None:
    """The EfficientNet tests above rely on this."""
    blocks = cut(build(), torch.zeros(3, 64, 64))[1]
    assert {block.has_skip for block in blocks} == {True, False}
    assert {block.conv_dw.stride[0] for block in blocks} == {1, 2}
