"""Both paths compute on the GPU what they are to compute."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import largest_error, relative_error, tf32
from benchmarks.gpu.models import CPU, LITE, SMALL, dense_backbone, factorized, noise, placed
from dfml.factorized import FactorizedBackbone

LITE_IMAGE = 96
ROUTED_IMAGE = 64


@torch.inference_mode()
def check_full_path(context: Context) -> None:
    """Check that the full path is timm's model, in float32 and, to its accuracy, in bfloat16."""
    sizes, report = context.sizes, context.report
    for name in (sizes.small, sizes.base, sizes.cnn, LITE):
        image = LITE_IMAGE if name == LITE else sizes.image
        dense = dense_backbone(name, image).eval()
        ours = placed(factorized(dense, name), context.device)
        images, dense = noise(sizes.path_images, image, context.device), dense.to(context.device)
        with tf32(False):
            truth = dense(images)
            report.figure(f"{name} float32", largest_error(ours(images), truth), most="same as timm")
            with torch.autocast(context.device.type, torch.bfloat16):
                a, b = ours(images).float(), dense(images).float()
        report.figure(f"{name} bf16", relative_error(a, b), most="bf16")
        ratio = relative_error(a, truth) / max(relative_error(b, truth), 1e-9)
        report.figure(f"{name} bf16 error × timm's", ratio, most="bf16 against timm's own error")


@torch.inference_mode()
def check_routed_path(context: Context) -> None:
    """Check that the routed path computes on the GPU what it computes on the CPU."""
    for name in ("deit_tiny_distilled_patch16_224", "resnet18", LITE):
        _check_in_float64(context, name)
    _check_choices(context)


def _check_in_float64(context: Context, name: str) -> None:
    ours = factorized(dense_backbone(name, ROUTED_IMAGE), name).double()
    images = noise(6, ROUTED_IMAGE, CPU, dtype=torch.float64)
    routed, both = ours(images, "routed"), ours(images, "both")
    ours, images = placed(ours, context.device), images.to(context.device)
    context.report.figure(f"{name} float64", relative_error(ours(images, "routed"), routed), most="float64")
    given = ours(images, "both")
    pairs = ((given.routed, both.routed), (given.full, both.full), (given.distance, both.distance))
    worst = max(relative_error(a, b) for a, b in pairs)
    context.report.figure(f"{name} both paths, float64", worst, most="float64")


def _check_choices(context: Context) -> None:
    """Check in float32 that tokens take the same sub-blocks, and the features where all do."""
    sizes, report = context.sizes, context.report
    ours = factorized(dense_backbone(sizes.small, sizes.image), sizes.small)
    images = noise(2 * sizes.path_images, sizes.image, CPU)
    truth, on_cpu = _choices_of(ours, images)
    with tf32(False):
        given, on_device = _choices_of(placed(ours, context.device), images.to(context.device))
    # By router, the share of each image's tokens.
    same = torch.stack([(a == b).double().mean(dim=1) for a, b in zip(on_cpu, on_device, strict=True)])
    report.figure(f"{SMALL} float32, tokens that go the same way", float(same.mean()), least="choices")
    alike = same.min(dim=0).values == 1
    name = f"{SMALL} float32, images of which all tokens do"
    if bool(alike.any()):
        report.figure(name, relative_error(given.cpu()[alike], truth[alike]), most="float32")
    else:
        report.skip(name, "there is none")


def _choices_of(backbone: FactorizedBackbone, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the routed path's features, and for each router the choices by image (B, …)."""
    found: list[Tensor] = []
    hooks = [
        router.register_forward_hook(lambda _, __, routing: found.append(routing.chosen.view(len(images), -1).cpu()))
        for router in backbone.routers()
    ]
    features = backbone(images, "routed")
    for hook in hooks:
        hook.remove()
    return features, found
