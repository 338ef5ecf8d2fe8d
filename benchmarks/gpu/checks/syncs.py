"""How often a training step waits for the GPU."""

from __future__ import annotations

import dataclasses

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.models import CNN, SMALL
from benchmarks.gpu.profiling import OperatorCounter, waits
from benchmarks.gpu.training_step import OTHER, variants, without_update

MOST_IMAGES = 8
LISTED_PLACES = 40
SHOWN_PLACES = 8


def check_syncs(context: Context) -> None:
    """Count how often, and where, a step waits for the GPU, and how many operators it calls."""
    for name, title in ((context.sizes.small, SMALL), (context.sizes.cnn, CNN)):
        _check_model(context, name, title)


def _check_model(context: Context, name: str, title: str) -> None:
    report = context.report
    sizes = dataclasses.replace(context.sizes, batch=min(MOST_IMAGES, context.sizes.batch))
    dense, ours, runs = variants(name, sizes, context.device)
    for step in (dense, ours):
        step.set_precision("bf16")
    for each, run in runs.items():
        run()
        with OperatorCounter() as operators, without_update(dense, ours):
            run()
        report.figure(f"{title} bf16, {each}, operator calls forward and backward", operators.count)
    if not context.cuda:
        report.skip(f"{title}, waits a step", "there is no GPU to wait for")
        return
    for each in ("dense", "exact", OTHER):
        places = waits(runs[each])
        report.figure(f"{title} bf16, {each}, waits a step", places.total(), most="syncs", speed=True)
        report.raw[f"waits of {title} {each}"] = dict(places.most_common(LISTED_PLACES))
        if each == "exact":
            report.note(f"{title} bf16, exact, where it waits most", dict(places.most_common(SHOWN_PLACES)))
    if title == SMALL:
        backbone = ours.module.model.backbone
        with torch.inference_mode():
            count = waits(lambda: backbone(ours.images, "routed")).total()
        report.figure(f"{title}, routed inference, waits a pass", count, most="syncs", speed=True)
