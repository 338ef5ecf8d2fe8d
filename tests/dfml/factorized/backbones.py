"""Small timm models without parameters at 0 or 1, which would hide terms of an equation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def randomized(model: nn.Module) -> nn.Module:
    """Move all parameters, and the batch norms' statistics, away from their initial values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.2 * torch.randn(buffer.shape, generator=generator)
            if name.endswith("running_var"):
                buffer += torch.rand(buffer.shape, generator=generator)
    return model.eval()


def vit(**changes: object) -> nn.Module:
    """Build a ViT with 2 blocks, 12 heads of width 4, and 5 tokens."""
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 12, "num_classes": 0}
    return randomized(VisionTransformer(**{**options, **changes}))


def deit() -> nn.Module:
    return randomized(timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2, num_classes=0))


def lite0() -> nn.Module:
    return randomized(timm.create_model("tf_efficientnet_lite0", num_classes=0))


def inverted_residuals(*stages: str, **options: object) -> nn.Module:
    """Build a depthwise-separable block of 8 channels, followed by stages of inverted residuals."""
    blocks = decode_arch_def([["ds_r1_k3_s1_e1_c8"], *([stage] for stage in stages)])
    options = {"num_classes": 0, "num_features": 32, "stem_size": 8, "act_layer": nn.ReLU6, **options}
    return randomized(EfficientNet(blocks, **options))


def lite() -> nn.Module:
    """Build a few thin blocks of EfficientNet-Lite: TensorFlow's padding, kernels of 3 and 5."""
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    stages = ("ir_r2_k3_s2_e6_c8", "ir_r2_k5_s2_e6_c16", "ir_r1_k5_s1_e6_c24")
    return inverted_residuals(*stages, pad_type="same", norm_layer=norm)


def mobilenet() -> nn.Module:
    """Build a few thin blocks of MobileNetV2."""
    return inverted_residuals("ir_r2_k3_s2_e6_c8", "ir_r2_k3_s2_e6_c16", "ir_r1_k3_s1_e6_c24")


def resnet(block: type[nn.Module]) -> nn.Module:
    """Build a ResNet of 5 blocks, thin after its stem."""
    return randomized(ResNet(block, layers=(1, 2, 1, 1), channels=(32, 32, 48, 64), num_classes=0))


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "ViT, class token": vit,
    "ViT, average pool": lambda: vit(global_pool="avg"),
    "ViT, LayerScale": lambda: vit(init_values=0.5),
    "ViT without biases": lambda: vit(proj_bias=False, qkv_bias=False),
    "ViT, normalized queries and keys": lambda: vit(qk_norm=True),
    "ViT, DINOv2-style with registers": lambda: vit(init_values=0.5, reg_tokens=4, no_embed_class=True),
    "DeiT, distilled": deit,
    "ResNet, basic blocks": lambda: resnet(BasicBlock),
    "ResNet, bottlenecks": lambda: resnet(Bottleneck),
    "EfficientNet-Lite": lite,
    "MobileNetV2": mobilenet,
}

# A K larger than 1 that each backbone allows.
ROUTERS = {name: 4 if name.startswith("ResNet") else 3 for name in BACKBONES}
