"""How many images per second the cores decode and augment, and how many a GPU's decoder would."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import Run, median_seconds, seconds_of
from benchmarks.gpu.models import SMALL, recipe_of
from dfml.data.format.images import decode
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.order import epoch_batches
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes
from dfml.data.streaming.transforms import training_transform
from dfml.recipe import Recipe

PHOTOS, PHOTOS_WITHOUT_GPU = 240, 12


def check_pipeline(context: Context) -> None:
    """Compare the rate of the cores with that of a step, and measure a GPU's decoder."""
    subset = subset_of_classes(ShardedImages(context.packed_photos(), "train"))
    batch = min(120, len(subset))
    recipe = recipe_of(context.sizes.small, context.sizes.image, batch_size=batch)
    encoded = _time_one_core(context, subset, recipe)
    best = _time_processes(context, subset, recipe)
    # Bytes, two batches per process.
    size = recipe.batch_size * 3 * recipe.image_size**2 * 2 * context.cores
    name = "shared memory that batches on their way take (bytes, two a process)"
    context.report.figure(name, size / 1e9, "GB")
    for each in ("dense", "exact"):
        step = context.report.value(f"steps_small.{SMALL} bf16, {each}, images/s")
        if step:
            name = f"the cores' rate of that of {SMALL}'s {each} step, bf16"
            context.report.figure(name, best / step, least="data", speed=True)
    if context.cuda:
        _time_gpu(context, recipe, encoded[: recipe.batch_size])
    else:
        context.report.skip("nvJPEG", "there is no GPU to decode on")


def _time_one_core(context: Context, subset: ClassSubset, recipe: Recipe) -> list[bytes]:
    """Report what each part of the work takes per image, and return the encoded photographs."""
    rows = [int(row) for row in subset.rows[: PHOTOS if context.cuda else PHOTOS_WITHOUT_GPU]]
    encoded = [subset.images.encoded(row) for row in rows]
    decoded = [decode(content) for content in encoded]
    transform = training_transform(recipe)
    context.report.figure("a photograph", statistics.mean(map(len, encoded)) / 1000, "kB")
    parts: dict[str, Run] = {
        "reading": lambda: [subset.images.encoded(row) for row in rows],
        "decoding": lambda: [decode(content) for content in encoded],
        "augmenting": lambda: [transform(image) for image in decoded],
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, run in parts.items():
        context.report.figure(f"{name}, one core", 1000 * seconds_of(run) / len(encoded), "ms an image")
    torch.set_num_threads(threads)
    return encoded


def _time_processes(context: Context, subset: ClassSubset, recipe: Recipe) -> float:
    """Report the rate of loaders with several processes, and return the best."""
    cores, best = context.cores, 0.0
    for workers, epochs in ((4, 1), (cores - 1, 3), (cores, 4)) if context.cuda else ((1, 4), (2, 6)):
        rate, first = _rate(subset, recipe, workers, epochs)
        best = max(best, rate)
        context.report.figure(f"{workers} processes", rate, "images/s")
        context.report.figure(f"{workers} processes, to the first batch of a run", first, "s")
    return best


def _rate(subset: ClassSubset, recipe: Recipe, workers: int, epochs: int) -> tuple[float, float]:
    """Return images per second once all processes deliver, and the seconds to the first batch."""
    batches = [epoch_batches(subset.targets, recipe.batch_size, None, 0, epoch) for epoch in range(1, epochs + 1)]
    order = np.concatenate(batches)
    with Loader(recipe, [subset], workers) as loader:
        began = time.perf_counter()
        arrived = [time.perf_counter() for _ in loader.training(subset, order, epoch=1)]
    skipped = min(workers, len(arrived) - 2)
    images = recipe.batch_size * (len(arrived) - 1 - skipped)
    return images / (arrived[-1] - arrived[skipped]), arrived[0] - began


def _time_gpu(context: Context, recipe: Recipe, encoded: list[bytes]) -> None:
    """Report the rates of nvJPEG and of augmentation on the GPU."""
    from torchvision.io import decode_jpeg

    report, device = context.report, context.device
    raw = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in encoded]
    on_gpu = decode_jpeg(raw, device=device)
    seconds = median_seconds(lambda: decode_jpeg(raw, device=device), 5)
    report.figure("nvJPEG, batches of 120", len(raw) / seconds, "images/s")
    by_pillow = torch.from_numpy(np.array(decode(encoded[0]))).permute(2, 0, 1)
    difference = float((on_gpu[0].cpu().float() - by_pillow.float()).abs().mean())
    report.figure("nvJPEG beside Pillow, mean difference", difference, "of 255")
    scale = (recipe.crop_scale, 1.0)
    crop = v2.Compose([v2.RandomResizedCrop(recipe.image_size, scale=scale, antialias=True), v2.RandomHorizontalFlip()])
    finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,) * 3, (0.5,) * 3)])

    def augment() -> Tensor:
        return finish(torch.stack([crop(image) for image in on_gpu]))

    augment()
    rate = len(raw) / median_seconds(augment, 3)
    report.figure("crops, flips and normalisation on the GPU, image by image", rate, "images/s")
