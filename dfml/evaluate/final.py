"""The test metrics of a finished model."""

from __future__ import annotations

import torch
from torch import Tensor

from dfml.data.datasets import recall_at
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.evaluation_set import images_for_test
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.split import ClassSubset
from dfml.embedding_model import EmbeddingModel
from dfml.evaluate.accuracy import accuracy
from dfml.evaluate.scoring import embed, embed_set
from dfml.factorized import ForwardPath


def metrics_on_test(
    model: EmbeddingModel,
    data: str,
    device: torch.device,
    workers: int = 0,
    path: ForwardPath | None = None,
    cache: Cache | None = None,
) -> dict[str, float]:
    """Return the metrics of a model on a data set's test images; all ranks must call it.

    For retrieval these are R@K with the data set's own K, R-precision and MAP@R, and without a
    gallery also NMI and F1; for classification top-1 and top-5.

    Args:
        model: the model, on `device`.
        data: the packed data set. If it has a gallery, its queries are searched there, else each
            test image among the others.
        device: the device to compute on.
        workers: the DataLoader workers.
        path: "full" or "routed"; None: the recipe's inference path.
        cache: the cache of files fetched from S3.
    """
    recipe = model.recipe
    images = images_for_test(data, recipe.task, cache)
    with Loader(recipe, images.parts, workers) as loader:
        if recipe.task == "classification":
            return accuracy(model, images.queries, device, loader, path)

        def embedded(subset: ClassSubset) -> Tensor:
            return embed(lambda batch: model(batch, path), subset, model.normalization, device, loader)

        found = embed_set(images, embedded)
    return found.full_score(recall_at(images.queries.images.dataset), recipe.seed)
