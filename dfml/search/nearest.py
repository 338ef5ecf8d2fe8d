"""Exact search in an index: all inner products are computed, a few thousand rows at a time.

q queries, n rows per block, D numbers per embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dfml.metrics.retrieval import nearest


class Match(NamedTuple):
    path: str
    cosine: float


def nearest_in(blocks: Iterable[tuple[list[str], np.ndarray]], queries: Tensor, top: int) -> list[list[Match]]:
    """Return the `top` most similar images of each query, most similar first.

    Args:
        blocks: the paths and embeddings (n, D), L2-normalized; one block is in memory at a time.
        queries: the embeddings of the queries (q, D), L2-normalized.
        top: the number of images per query, at least 1.
    """
    best: list[list[Match]] = [[] for _ in queries]
    for paths, embeddings in blocks:
        gallery = torch.from_numpy(embeddings)
        indices, cosines = nearest(queries, min(top, len(paths)), gallery=gallery)
        for query, (rows, values) in enumerate(zip(indices.tolist(), cosines.tolist(), strict=True)):
            found = [Match(paths[row], cosine) for row, cosine in zip(rows, values, strict=True)]
            best[query] = sorted(best[query] + found, key=lambda match: -match.cosine)[:top]
    return best
