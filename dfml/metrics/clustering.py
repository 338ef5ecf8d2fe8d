"""NMI and F1 of a k-means clustering of the embeddings into as many clusters as there are classes.

Metric-learning papers report them since Song et al., "Deep Metric Learning via Lifted Structured
Feature Embedding", CVPR 2016, §6. F1 is the harmonic mean of precision and recall over pairs of
images; a pair is predicted positive if both images are in one cluster.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dfml.distributed import rank, sum_over_ranks
from dfml.metrics.k_means import k_means


def clustering_metrics(embeddings: Tensor, labels: Tensor, seed: int = 0) -> dict[str, float]:
    """Return `nmi` and `f1`, each in 0 … 1; rank 0 computes them for all ranks.

    Args:
        embeddings: the L2-normalized embeddings (n, D).
        labels: the labels (n,), int64.
        seed: the seed of the initial centers of k-means.
    """
    # Imported here because it would delay the start of every trial by a second, and few need it.
    from sklearn.metrics import normalized_mutual_info_score

    found = torch.zeros(2, dtype=torch.float64, device=embeddings.device)
    if rank() == 0:
        truth = labels.unique(return_inverse=True)[1].cpu().numpy()
        clusters = k_means(embeddings, int(truth.max()) + 1, seed).cpu().numpy()
        found = found.new_tensor([normalized_mutual_info_score(truth, clusters), pairwise_f1(truth, clusters)])
    nmi, f1 = sum_over_ranks(found).tolist()
    return {"nmi": nmi, "f1": f1}


def pairwise_f1(truth: np.ndarray, clusters: np.ndarray) -> float:
    """Return F1 over all pairs of images, given their classes (n,) and clusters (n,)."""
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(truth, clusters)
    return float(2 * right / (2 * right + wrong + missed)) if right + wrong + missed else 0.0
