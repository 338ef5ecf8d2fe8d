"""A training step has the gradients on the GPU that it has on the CPU."""

from __future__ import annotations

import json

import torch
from torch.nn import functional as F

from benchmarks.gpu.context import Context
from benchmarks.gpu.gradients import as_one, gradients, worst_error
from benchmarks.gpu.measure import relative_error, tf32
from benchmarks.gpu.models import CPU, LITE, labels_for, noise, objective_of, placed, recipe_of

# As published, some terms are too small for an error in them to show.
LARGER_TERMS = {"embedding_reconstruction": 0.5, "stream_reconstruction": 0.05, "balance_weight": 0.2}


def check_gradients(context: Context) -> None:
    """Check that loss and gradients on the GPU are those on the CPU.

    For every family, exact and sparse, with empty sub-blocks, and with options that save memory.
    """
    sizes = context.sizes
    # Model, side of an image, images, values of the recipe.
    cases: tuple[tuple[str, int, int, dict[str, object]], ...] = (
        (sizes.vit, 32, 7, {}),
        (sizes.vit, 32, 7, {"sparse_training": True}),
        # In this case and the next, tokens or images are so few that sub-blocks stay empty.
        (sizes.vit, 32, 1, {"blocks": sizes.vit_blocks}),
        (sizes.resnet, 64, 2, {}),
        (sizes.resnet, 64, 5, {}),
        (sizes.resnet, 64, 5, {"sparse_training": True}),
        (LITE, 64, 5, {"weights": "pretrained"}),
        (sizes.vit, 32, 7, {"activation_checkpointing": True, "blocks": "0,2-3"}),
        (sizes.vit, 32, 7, {"gradient_accumulation": 3, "blocks": "0,2-3"}),
    )
    for name, image, batch, values in cases:
        _check_in_float64(context, name, image, batch, values)
    _check_lower_precisions(context)


def _check_in_float64(context: Context, name: str, image: int, batch: int, values: dict[str, object]) -> None:
    ours = objective_of(recipe_of(name, image, **{**LARGER_TERMS, **values})).double()
    images, labels = noise(batch, image, CPU, dtype=torch.float64), labels_for(batch, CPU)
    loss, truth = gradients(ours, images, labels)
    empty = bool((ours.routing.tokens == 0).any())
    options = {key: value for key, value in values.items() if key not in ("weights", "blocks")}
    shown = f" {json.dumps(options)}" if options else ""
    title = f"{name}, {batch} images{shown}{', some sub-blocks empty' if empty else ''}"
    ours = placed(ours, context.device)
    images, labels = images.to(context.device), labels.to(context.device)
    given_loss, given = gradients(ours, images, labels)
    error = max(worst_error(given, truth), abs(given_loss - loss) / abs(loss))
    context.report.figure(f"{title}, float64", error, most="gradients float64")
    # Strict float32 and float64 are gathered, unless asked otherwise.
    ours.model.backbone.design = "masked"
    masked = gradients(ours, images, labels)[1]
    context.report.figure(f"{title}, masked, float64", worst_error(masked, truth), most="gradients float64")


def _check_lower_precisions(context: Context) -> None:
    report = context.report
    ours = objective_of(recipe_of(context.sizes.vit, 32, **LARGER_TERMS))
    images, labels = noise(7, 32, CPU), labels_for(7, CPU)
    _, truth = gradients(ours, images, labels)
    ours = placed(ours, context.device)
    images, labels = images.to(context.device), labels.to(context.device)
    with tf32(False):
        _, given = gradients(ours, images, labels)
        error = relative_error(as_one(given), as_one(truth))
        report.figure("ViT, float32, all gradients as one", error, most="gradients float32")
        ours.model.recipe = ours.model.recipe.model_copy(update={"precision": "bfloat16"})
        _, half = gradients(ours, images, labels)
    cosine = float(F.cosine_similarity(as_one(half), as_one(given), dim=0))
    report.figure("ViT, bf16, cosine to float32's", cosine, least="gradients bf16")
    kinds = {gradient.dtype for gradient in half.values()}
    report.note("ViT, bf16, kinds of gradients", sorted(map(str, kinds)))
