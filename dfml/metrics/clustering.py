"""NMI and F1 of a k-means clustering of the embeddings into as many clusters as there are classes.

As metric-learning papers report them since Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR
2016, §6: F1 is the harmonic mean of precision and recall over pairs of images, a pair being positive when both are in one cluster.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dfml.distributed import rank, sum_over_ranks

ITERATIONS = 20


def clustering_metrics(embeddings: Tensor, labels: Tensor, seed: int = 0) -> dict[str, float]:
    """`nmi` and `f1`, each in 0 … 1; rank 0 computes them for all.

    Args:
        embeddings: (n, D), L2-normalised.
        labels: (n,) int64.
        seed: of the k-means' first centres.
    """
    from sklearn.metrics import (
        normalized_mutual_info_score,
    )  # here: it takes a second of every trial's start, and few need it

    found = torch.zeros(2, dtype=torch.float64, device=embeddings.device)
    if rank() == 0:
        truth = labels.unique(return_inverse=True)[1].cpu().numpy()
        clusters = k_means(embeddings.cpu().numpy(), int(truth.max()) + 1, seed)
        found = found.new_tensor([normalized_mutual_info_score(truth, clusters), pairwise_f1(truth, clusters)])
    nmi, f1 = sum_over_ranks(found).tolist()
    return {"nmi": nmi, "f1": f1}


def k_means(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The cluster of each vector (n,), by faiss."""
    import faiss  # here, since few runs need it

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    # All vectors count, and clusters of a few images are meant: without these two faiss samples, and warns.
    means = faiss.Kmeans(
        vectors.shape[1],
        clusters,
        niter=ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    means.train(vectors)
    assigned: np.ndarray = means.index.search(vectors, 1)[1].ravel()
    return assigned


def pairwise_f1(truth: np.ndarray, clusters: np.ndarray) -> float:
    """F1 over all pairs of images: (n,) classes and (n,) clusters, both counted from 0."""
    both = np.unique(truth.astype(np.int64) * (int(clusters.max()) + 1) + clusters, return_counts=True)[1]
    together = _pairs(both)
    predicted, actual = _pairs(np.bincount(clusters)), _pairs(np.bincount(truth))
    return 2 * together / (predicted + actual) if predicted + actual else 0.0


def _pairs(counts: np.ndarray) -> float:
    return float((counts.astype(np.float64) * (counts - 1) / 2).sum())
