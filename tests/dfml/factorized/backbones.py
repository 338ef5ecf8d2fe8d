"""Small timm models with no parameter left at 0 or 1, so that no term of an equation goes unseen."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def randomised(model: nn.Module) -> nn.Module:
    """All parameters, and the batch norms' statistics, moved away from where they are initialised."""
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
    """A ViT of 2 blocks, 12 heads of width 4, 5 tokens."""
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 12, "num_classes": 0}
    return randomised(VisionTransformer(**{**options, **changes}))


def deit() -> nn.Module:
    return randomised(timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2, num_classes=0))


def lite0() -> nn.Module:
    return randomised(timm.create_model("tf_efficientnet_lite0", num_classes=0))


def mobilenet() -> nn.Module:
    return randomised(timm.create_model("mobilenetv2_100", num_classes=0))


def resnet(block: type[nn.Module]) -> nn.Module:
    return randomised(ResNet(block, layers=(1, 2, 1, 1), num_classes=0))


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "ViT, class token": vit,
    "ViT, average pool": lambda: vit(global_pool="avg"),
    "ViT, LayerScale": lambda: vit(init_values=0.5),
    "ViT without biases": lambda: vit(proj_bias=False, qkv_bias=False),
    "ViT, normalised queries and keys": lambda: vit(qk_norm=True),
    "ViT, DINOv2-style with registers": lambda: vit(init_values=0.5, reg_tokens=4, no_embed_class=True, patch_size=8),
    "DeiT, distilled": deit,
    "ResNet, basic blocks": lambda: resnet(BasicBlock),
    "ResNet, bottlenecks": lambda: resnet(Bottleneck),
    "EfficientNet-Lite0": lite0,
    "MobileNetV2": mobilenet,
}

# A K of several that each allows.
ROUTERS = {name: 4 if name.startswith("ResNet") else 3 for name in BACKBONES}
