"""The metrics of a finished model on the classes kept for the test."""

from __future__ import annotations

import torch
from torch import Tensor

from dfml.data.cache import Cache
from dfml.data.dataset import ShardedImages
from dfml.data.datasets import recall_at
from dfml.data.manifest import read_manifest
from dfml.data.split import subset_of_classes
from dfml.embedding_model import EmbeddingModel
from dfml.evaluate.accuracy import accuracy
from dfml.evaluate.scoring import embed, full_score
from dfml.factorized import Path as Way
from dfml.metrics import retrieval_metrics


def metrics_on_test(
    model: EmbeddingModel,
    data: str,
    device: torch.device,
    workers: int = 0,
    path: Way = "full",
    cache: Cache | None = None,
) -> dict[str, float]:
    """R@K with the data set's own K, R-precision, MAP@R; NMI and F1 where there is one test split. A classifier's top-1 and top-5. All ranks must call it.

    Args:
        model: on `device`.
        data: a packed data set; where it has a gallery, its queries are looked for there, else each test image among the others.
        device: where to compute.
        workers: processes that load images.
        path: "full" or "routed".
        cache: keeps what is fetched from S3.
    """
    manifest = read_manifest(data)
    at = recall_at(manifest.dataset)

    def embedded(split: str) -> tuple[Tensor, Tensor]:
        images = ShardedImages(data, split, cache)
        found = embed(
            lambda batch: model(batch, path),
            subset_of_classes(images),
            model.recipe,
            model.normalisation,
            device,
            workers,
        )
        return found, torch.from_numpy(images.labels).to(device)

    if model.recipe.task == "classification":
        return accuracy(model, subset_of_classes(ShardedImages(data, "test", cache)), device, workers, path)
    if "gallery" in manifest.splits:
        return retrieval_metrics(*embedded("query"), *embedded("gallery"), recall_at=at)
    embeddings, _ = embedded("test")
    return full_score(embeddings, subset_of_classes(ShardedImages(data, "test", cache)), at, model.recipe.seed)
