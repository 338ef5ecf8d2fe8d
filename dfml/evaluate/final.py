"""The metrics of a finished model on the classes kept for the test."""

from __future__ import annotations

import torch
from torch import Tensor

from dfml.data.cache import Cache
from dfml.data.datasets import recall_at
from dfml.data.evaluation_set import images_for_test
from dfml.data.split import ClassSubset
from dfml.embedding_model import EmbeddingModel
from dfml.evaluate.accuracy import accuracy
from dfml.evaluate.scoring import embed, embed_set
from dfml.factorized import Path as Way


def metrics_on_test(
    model: EmbeddingModel,
    data: str,
    device: torch.device,
    workers: int = 0,
    path: Way | None = None,
    cache: Cache | None = None,
) -> dict[str, float]:
    """R@K with the data set's own K, R-precision, MAP@R; NMI and F1 where there is one test split. A classifier's top-1 and top-5. All ranks must call it.

    Args:
        model: on `device`.
        data: a packed data set; where it has a gallery, its queries are looked for there, else each test image among the others.
        device: where to compute.
        workers: processes that load images.
        path: "full" or "routed"; None: the recipe's.
        cache: keeps what is fetched from S3.
    """
    recipe = model.recipe
    images = images_for_test(data, recipe.task, cache)
    if recipe.task == "classification":
        return accuracy(model, images.queries, device, workers, path)

    def embedded(subset: ClassSubset) -> Tensor:
        return embed(lambda batch: model(batch, path), subset, recipe, model.normalisation, device, workers)

    return embed_set(images, embedded).full_score(recall_at(images.queries.images.dataset), recipe.seed)
