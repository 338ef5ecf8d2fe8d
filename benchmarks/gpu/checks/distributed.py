"""Several ranks have the gradients and metrics of one process."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.context import ROOT, Context
from benchmarks.gpu.gradients import Gradients, gradients, without_prefix, worst_error
from benchmarks.gpu.measure import relative_error, seconds_of
from benchmarks.gpu.models import CPU, LITE, labels_for, noise, objective_of, placed, recipe_of
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.distributed import _Gather
from dfml.metrics import retrieval_metrics
from dfml.train import Training

BAR = "gradients float64"
LOSSES = ("proxy_anchor", "ms")
IMAGES = 7  # of which rank 0 has four
WRAPPINGS = 4


def check_distributed(context: Context) -> None:
    """Check DDP as the project uses it.

    One rank over NCCL, on a CPU over gloo; then two ranks that share the device, over gloo. Proxies
    and routers are compared as well.
    """
    _check_one_rank(context)
    _check_two_ranks(context)


def _check_one_rank(context: Context) -> None:
    report, device = context.report, context.device
    backend = "nccl" if context.cuda else "gloo"
    training = _training(device)
    images = noise(8, 64, device, dtype=torch.float64)
    labels = labels_for(8, device) % len(training.train.classes)
    _, truth = gradients(training.objective, images, labels)
    if context.cuda:
        torch.cuda.set_device(device)
    with tempfile.TemporaryDirectory() as folder, _process_group(backend, folder, rank=0, world_size=1):
        wrapped = training.distributed()
        assert wrapped is not training.objective
        given = without_prefix(gradients(wrapped, images, labels)[1])
        report.figure(f"{backend}, one rank, worst gradient", worst_error(given, truth), most=BAR)
        for name, part in (("proxies", "metric_loss"), ("routers", "router.")):
            keys = [key for key in truth if part in key]
            error = worst_error({key: given[key] for key in keys}, {key: truth[key] for key in keys})
            report.figure(f"{backend}, one rank, worst gradient of {name} ({len(keys)})", error, most=BAR)
        _check_collectives(context, backend)
        del wrapped
        _check_wrapping(context, backend, training)


def _training(device: torch.device) -> Training:
    recipe = recipe_of(LITE, 64, weights="pretrained", batch_size=8, warm_epochs=0, balance_weight=0.2)
    subset = subset_of_classes(ShardedImages(ROOT / "datasets/emoji", "train"), np.arange(40))
    training = Training(recipe, subset, None, device)
    training.objective.double().train().set_warm_up(False)
    return training


def _check_collectives(context: Context, backend: str) -> None:
    """Check what the project asks of a backend besides DDP."""
    report, device = context.report, context.device
    rows = torch.randn(5, 3, device=device, requires_grad=True)
    # With one rank `gather` does nothing: this is what it does with more.
    gathered = _Gather.apply(rows, len(rows))
    gathered.square().sum().backward()
    error = max(relative_error(gathered, rows), relative_error(rows.grad, 2 * rows))
    report.figure(f"{backend}, gather and its gradient", error, most=BAR)
    summed = torch.arange(4.0, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    dist.all_reduce(summed, dist.ReduceOp.MAX)
    dist.broadcast_object_list(["a sentence"])
    dist.barrier()
    error = relative_error(summed, torch.arange(4.0))
    report.figure(f"{backend}, sums and maxima of float64", error, most=BAR)


def _check_wrapping(context: Context, backend: str, training: Training) -> None:
    """Report what it costs to wrap the objective again, as `Training` does after warm-up."""
    held = []
    for time in range(WRAPPINGS):
        training.objective.set_warm_up(time % 2 == 0)
        seconds = seconds_of(training.distributed)
        held.append(torch.cuda.memory_allocated() if context.cuda else 0)
    context.report.figure(f"{backend}, wrapping after warm-up", seconds, "s")
    left = (held[-1] - held[0]) / (WRAPPINGS - 1)
    context.report.figure(f"{backend}, memory left behind by a wrapping", left / 1e6, "MB")


def _check_two_ranks(context: Context) -> None:
    report, device = context.report, context.device
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_run_rank, args=(folder, str(device)), nprocs=2)
        found = [torch.load(f"{folder}/{rank}.pt", weights_only=True, map_location="cpu") for rank in range(2)]
    title = f"two ranks over gloo on one {device.type}"
    for loss in LOSSES:
        _, truth = gradients(_small_objective(loss, device), *_global_batch(device))
        error = max(worst_error(without_prefix(of_rank[loss]), truth) for of_rank in found)
        report.figure(f"{title}, {loss}, worst gradient", error, most=BAR)
    truth = _metrics(CPU)
    error = max(abs(found[0]["metrics"][name] - truth[name]) for name in truth)
    report.figure(f"{title}, metrics", error, most="same metrics")


def _run_rank(rank: int, folder: str, device_name: str) -> None:
    """Save the gradients and metrics that one of two ranks finds."""
    torch.set_num_threads(1)
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _process_group("gloo", folder, rank, world_size=2):
        found: dict[str, Gradients | dict[str, float]] = {}
        for loss in LOSSES:
            wrapped = DistributedDataParallel(
                _small_objective(loss, device),
                device_ids=[0] if device.type == "cuda" else None,
                broadcast_buffers=False,
            )
            images, labels = _global_batch(device)
            own = slice(rank, None, 2)
            found[loss] = gradients(wrapped, images[own], labels[own])[1]
        found["metrics"] = _metrics(device)
        torch.save(found, f"{folder}/{rank}.pt")


def _small_objective(loss: str, device: torch.device) -> nn.Module:
    values: dict[str, object] = {
        "loss": loss,
        "embedding_size": 8,
        "embedding_reconstruction": 0.5,
        "stream_reconstruction": 0.05,
        "balance_weight": 0.2,
        "blocks": "0,5,11",
        "batch_size": IMAGES,
    }
    if loss == "ms":
        values["images_per_class"] = IMAGES
    return placed(objective_of(recipe_of("vit_tiny_patch16_224", 32, **values)).double(), device)


def _global_batch(device: torch.device) -> tuple[Tensor, Tensor]:
    return noise(IMAGES, 32, device, dtype=torch.float64), labels_for(IMAGES, device) % 5


def _metrics(device: torch.device) -> dict[str, float]:
    points = F.normalize(torch.randn(301, 16, generator=torch.Generator().manual_seed(5)), dim=1)
    return retrieval_metrics(points.to(device), (torch.arange(301) % 60).to(device))


@contextlib.contextmanager
def _process_group(backend: str, folder: str, rank: int, world_size: int) -> Iterator[None]:
    method = f"file://{folder}/rendezvous"
    dist.init_process_group(backend, init_method=method, rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
