"""K-means, by faiss on CPUs and in plain torch on GPUs.

n vectors of width D, k clusters. Both start from k of the vectors, go through `ROUNDS` rounds of
Lloyd's algorithm, and fill an empty cluster with half of a large one, as faiss does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dfml.precision import tf32

ROUNDS = 20
CHUNK_ELEMENTS = 2**26  # distances in memory at a time: 256 MB
APART = 1 / 1024  # relative distance of the halves of a cluster, as in faiss


def k_means(vectors: Tensor, clusters: int, seed: int) -> Tensor:
    """Return the cluster of each vector (n,), int64.

    Args:
        vectors: the vectors (n, D).
        clusters: the number of clusters k, at most n.
        seed: the seed of the first centers.
    """
    if vectors.is_cuda:
        return by_torch(vectors, clusters, seed)
    return torch.from_numpy(_by_faiss(vectors.numpy(), clusters, seed))


def by_torch(vectors: Tensor, clusters: int, seed: int) -> Tensor:
    """Return what `k_means` does, computed on the vectors' device in full float32."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(len(vectors), generator=generator)[:clusters]
    vectors = vectors.float()
    return lloyd(vectors, vectors[first.to(vectors.device)], generator)


def lloyd(vectors: Tensor, centers: Tensor, generator: torch.Generator) -> Tensor:
    """Return the nearest center of each vector (n,) after `ROUNDS` rounds.

    Args:
        vectors: the vectors (n, D), float32.
        centers: the first centers (k, D).
        generator: a generator on the CPU, which draws the clusters that are halved.
    """
    with tf32(allowed=False):
        for _ in range(ROUNDS):
            nearest = nearest_centers(vectors, centers)
            # In float64, the order in which a GPU adds hardly matters.
            sums = torch.zeros_like(centers, dtype=torch.float64)
            for index, part in zip(nearest.split(2**14), vectors.split(2**14), strict=True):
                sums.index_add_(0, index, part.double())
            counts = torch.bincount(nearest, minlength=len(centers))
            centers = (sums / counts.clamp_min(1)[:, None]).float()
            _fill_empty(centers, counts.cpu(), generator)
        return nearest_centers(vectors, centers)


def nearest_centers(vectors: Tensor, centers: Tensor) -> Tensor:
    """Return the nearest center of each vector (n,)."""
    lengths = centers.square().sum(dim=1)  # (k,)
    chunks = vectors.split(max(1, CHUNK_ELEMENTS // len(centers)))
    # The square of the distance, less that of the vector's length.
    return torch.cat([torch.addmm(lengths, chunk, centers.T, alpha=-2).argmin(dim=1) for chunk in chunks])


def _fill_empty(centers: Tensor, counts: Tensor, generator: torch.Generator) -> None:
    """Give each empty cluster half of another, drawn in proportion to its vectors but one."""
    sign = torch.ones(centers.shape[1], device=centers.device)
    sign[1::2] = -1
    for empty in torch.nonzero(counts == 0).flatten().tolist():
        halved = int(torch.multinomial((counts - 1).clamp_min(0).double(), 1, generator=generator))
        center = centers[halved].clone()
        centers[empty], centers[halved] = center * (1 + APART * sign), center * (1 - APART * sign)
        counts[empty] = counts[halved] // 2
        counts[halved] -= counts[empty]


def _by_faiss(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    import faiss  # imported here because few runs need it

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    # The limits on points per centroid keep faiss from sampling and from warning of small clusters.
    means = faiss.Kmeans(
        vectors.shape[1],
        clusters,
        niter=ROUNDS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    means.train(vectors)
    assigned: np.ndarray = means.index.search(vectors, 1)[1].ravel()
    return assigned
