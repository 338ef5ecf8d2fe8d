"""R@K, R-precision and MAP@R by cosine, in chunks of queries so that no n × n matrix is ever in memory.

n images, D width, R the number of other images of a query's class (Musgrave et al., "A Metric Learning Reality Check").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1024  # queries at a time


def nearest(embeddings: Tensor, k: int, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k most similar other images: indices and cosines, each (queries, k), most similar first.

    Args:
        embeddings: (n, D), L2-normalised.
        k: at most n - 1.
        queries: indices of the queries; all n without it.
    """
    queries = torch.arange(len(embeddings), device=embeddings.device) if queries is None else queries
    found = []
    for chunk in queries.split(CHUNK):
        cosine = embeddings[chunk] @ embeddings.T  # (chunk, n)
        cosine[torch.arange(len(chunk)), chunk] = -torch.inf  # a query doesn't find itself
        found.append(cosine.topk(k, dim=1))
    return torch.cat([top.indices for top in found]), torch.cat([top.values for top in found])


def retrieval_metrics(embeddings: Tensor, labels: Tensor, recall_at: Sequence[int] = (1, 2, 4, 8)) -> dict[str, float]:
    """`recall_at_<K>`, `r_precision` and `map_at_r`, each in 0 … 1.

    Queries whose class has no other image can't be answered and don't count.

    Args:
        embeddings: (n, D), L2-normalised.
        labels: (n,) int64.
        recall_at: the K of R@K.
    """
    relevant = labels.unique(return_inverse=True, return_counts=True)
    r = relevant[2][relevant[1]] - 1  # (n,)
    queries = torch.nonzero(r > 0).flatten()
    k = min(len(labels) - 1, max(int(r.max()), *recall_at))
    totals = dict.fromkeys([*(f"recall_at_{at}" for at in recall_at), "r_precision", "map_at_r"], 0.0)
    rank = torch.arange(1, k + 1, device=labels.device)
    for chunk in queries.split(CHUNK):
        indices, _ = nearest(embeddings, k, chunk)
        hit = labels[indices] == labels[chunk, None]  # (chunk, k)
        for at in recall_at:
            totals[f"recall_at_{at}"] += float(hit[:, :at].any(dim=1).sum())
        hit_in_r = hit & (rank <= r[chunk, None])
        precision = hit_in_r.cumsum(dim=1) / rank
        totals["r_precision"] += float((hit_in_r.sum(dim=1) / r[chunk]).sum())
        totals["map_at_r"] += float(((precision * hit_in_r).sum(dim=1) / r[chunk]).sum())
    return {name: total / len(queries) for name, total in totals.items()}
