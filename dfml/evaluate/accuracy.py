"""Top-1 and top-5 accuracy of a classifier, with a share of the images on each rank."""

from __future__ import annotations

import numpy as np
import torch

from dfml.data.streaming.loader import Loader
from dfml.data.streaming.split import ClassSubset
from dfml.distributed import rank, sum_over_ranks, world_size
from dfml.embedding_model import EmbeddingModel
from dfml.errors import InvalidInput
from dfml.factorized import ForwardPath
from dfml.metrics.classification import TOP, hits


@torch.inference_mode()
def accuracy(
    model: EmbeddingModel, subset: ClassSubset, device: torch.device, loader: Loader, path: ForwardPath | None = None
) -> dict[str, float]:
    """Return `top_1` and `top_5`, each in 0 … 1; all ranks must call it.

    Args:
        model: the model, on `device`.
        subset: the images.
        device: the device to compute on.
        loader: a loader of `subset`.
        path: "full" or "routed"; None: the recipe's inference path.

    Raises:
        InvalidInput: an image is of a class that the model doesn't know.
    """
    model.eval()
    names = [subset.images.class_names[label] for label in subset.classes]
    if unknown := set(names) - set(model.class_names):
        raise InvalidInput(
            f"class {sorted(unknown)[0]!r} of the test images isn't one that the model was trained on; "
            "pack both splits from one data set"
        )
    index_of = {name: i for i, name in enumerate(model.class_names)}
    to_model = torch.tensor([index_of[name] for name in names], device=device)
    rows = np.arange(rank(), len(subset), world_size())
    found = torch.zeros(len(TOP), dtype=torch.float64, device=device)
    for pixels, targets in loader.evaluation(subset, rows):
        labels = to_model[targets.to(device, non_blocking=True)]
        found += hits(model.logits(model.normalized(pixels), path), labels)
    shares = sum_over_ranks(found) / len(subset)
    return {f"top_{k}": share for k, share in zip(TOP, shares.tolist(), strict=True)}
