"""Retrieval metrics, and the clustering metrics, on the GPU and on the cores."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import seconds_of
from benchmarks.gpu.profiling import waits
from benchmarks.gpu.sizes import Sizes
from dfml.metrics import clustering_metrics, retrieval, retrieval_metrics


@torch.inference_mode()
def check_metrics(context: Context) -> None:
    """Compute R@K, RP and MAP@R of as many embeddings as Stanford Online Products has."""
    report = context.report
    embeddings, labels = _points(context.sizes)
    on_device, device_labels = embeddings.to(context.device), labels.to(context.device)
    at = (1, 10, 100, 1000) if len(labels) > 1001 else (1, 10)
    half = len(on_device) // 2
    # The first call is slower.
    retrieval_metrics(on_device[:half], device_labels[:half], recall_at=at)

    def compute() -> dict[str, float]:
        return retrieval_metrics(on_device, device_labels, recall_at=at)

    given: dict[str, float] = {}
    title = f"{len(labels):,} × {embeddings.shape[1]} on the {context.device.type}"
    report.figure(title, seconds_of(lambda: given.update(compute())), "s", most="metrics", speed=True)
    whole = retrieval.QUERIES_PER_CHUNK
    for chunk in (1024, 4096) if context.cuda else (128,):
        with patch.object(retrieval, "QUERIES_PER_CHUNK", chunk):
            report.figure(f"in chunks of {chunk} in place of {whole}", seconds_of(compute), "s")
    if context.cuda:
        few = on_device[:4096], device_labels[:4096] % 512
        count = waits(lambda: retrieval_metrics(*few, recall_at=(1, 10))).total()
        report.figure("waits for 4,096 queries", count)
    truth: dict[str, float] = {}
    seconds = seconds_of(lambda: truth.update(retrieval_metrics(embeddings, labels, recall_at=at)))
    report.figure(f"the same on {torch.get_num_threads()} cores", seconds, "s")
    largest = max(abs(given[name] - truth[name]) for name in truth)
    report.figure("largest difference of any metric", largest, most="same metrics")
    report.raw["metrics"] = {"given": given, "truth": truth}


@torch.inference_mode()
def check_clustering(context: Context) -> None:
    """Compute NMI and F1 on the cores and, if there is one, on the GPU."""
    embeddings, labels = _points(context.sizes)
    _report_clustering(context, embeddings, labels)
    if context.cuda:
        _report_clustering(context, embeddings.to(context.device), labels.to(context.device))


def _report_clustering(context: Context, embeddings: Tensor, labels: Tensor) -> None:
    found: dict[str, float] = {}
    where = "the GPU, in plain torch" if embeddings.is_cuda else "the cores, by faiss"
    seconds = seconds_of(lambda: found.update(clustering_metrics(embeddings, labels)))
    context.report.figure(f"NMI and F1 on {where}", seconds, "s")
    context.report.figure(f"NMI on {where}", found["nmi"])


def _points(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return embeddings that scatter around their classes' centers, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(sizes.points) % sizes.point_classes
    centers = torch.randn(sizes.point_classes, sizes.point_width, generator=generator)
    scattered = centers[labels] + 2.2 * torch.randn(sizes.points, sizes.point_width, generator=generator)
    return F.normalize(scattered, dim=1), labels
