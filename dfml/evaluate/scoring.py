"""Embed a set of images over all ranks, and score it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfml.data.streaming.evaluation_set import EvaluationSet
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.order import rank_share
from dfml.data.streaming.split import ClassSubset
from dfml.data.streaming.transforms import Normalization, normalized
from dfml.distributed import gather, rank, world_size
from dfml.metrics import clustering_metrics, retrieval_metrics

Embedder = Callable[[Tensor], Tensor]  # normalized images (B, 3, H, W) to L2-normalized embeddings (B, D)


@torch.inference_mode()
def embed(
    embedder: Embedder, subset: ClassSubset, normalization: Normalization, device: torch.device, loader: Loader
) -> Tensor:
    """Embed `subset`, each rank a share of it: (n, D) in its order, float32, on every rank.

    Args:
        embedder: the model, on `device`, or another function.
        subset: the images.
        normalization: the normalization of the embedder's input.
        device: the device to compute on.
        loader: a loader of `subset`.
    """
    rows = rank_share(np.arange(len(subset)), rank(), world_size())
    batches = loader.evaluation(subset, rows)
    local = torch.cat([embedder(normalized(pixels, normalization, device)).float() for pixels, _ in batches])
    return gather(local, len(subset))


def score(embeddings: Tensor, subset: ClassSubset, recall_at: Sequence[int] = (1, 2, 4, 8)) -> dict[str, float]:
    """Return R@K, R-precision and MAP@R of embeddings in the subset's order."""
    return retrieval_metrics(embeddings, _targets(embeddings, subset), recall_at=recall_at)


def full_score(embeddings: Tensor, subset: ClassSubset, recall_at: Sequence[int], seed: int) -> dict[str, float]:
    """Return `score`, plus NMI and F1, whose k-means clustering takes too long for every epoch."""
    clustering = clustering_metrics(embeddings, _targets(embeddings, subset), seed)
    return {**score(embeddings, subset, recall_at), **clustering}


@dataclass(frozen=True)
class Embedded:
    """An evaluation set and its embeddings.

    Attributes:
        images: the n images, or q queries and a gallery of n images.
        queries: the embeddings (q, D) of the queries, or (n, D) of all images.
        gallery: the gallery's embeddings (n, D); None: the set has no gallery.
    """

    images: EvaluationSet
    queries: Tensor
    gallery: Tensor | None

    def score(self, recall_at: Sequence[int] = (1, 2, 4, 8)) -> dict[str, float]:
        """Return R@K, R-precision and MAP@R."""
        if self.gallery is None or self.images.gallery is None:
            return score(self.queries, self.images.queries, recall_at)
        parts = (self.images.queries, self.images.gallery)
        labels, in_gallery = (torch.from_numpy(part.labels).to(self.queries.device) for part in parts)
        return retrieval_metrics(self.queries, labels, self.gallery, in_gallery, recall_at)

    def full_score(self, recall_at: Sequence[int], seed: int) -> dict[str, float]:
        """Return `score`, plus NMI and F1 if there is no separate gallery."""
        if self.gallery is None:
            return full_score(self.queries, self.images.queries, recall_at, seed)
        return self.score(recall_at)


def embed_set(images: EvaluationSet, embedded: Callable[[ClassSubset], Tensor]) -> Embedded:
    """Embed the parts of an evaluation set with `embedded`, which keeps the order of a part."""
    gallery = None if images.gallery is None else embedded(images.gallery)
    return Embedded(images, embedded(images.queries), gallery)


def _targets(embeddings: Tensor, subset: ClassSubset) -> Tensor:
    return torch.from_numpy(subset.targets).to(embeddings.device)
