"""K-means in torch, which GPUs use, against faiss, which CPUs use."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional as F

from dfml.metrics import k_means as module
from dfml.metrics.k_means import ROUNDS, by_torch, k_means, lloyd

WIDTH, CLASSES, PER_CLASS = 32, 60, 12


def points(seed: int, scatter: float = 1.2) -> tuple[Tensor, Tensor]:
    """Return embeddings that scatter around their classes' centers, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(PER_CLASS)[torch.randperm(CLASSES * PER_CLASS, generator=generator)]
    centers = torch.randn(CLASSES, WIDTH, generator=generator)
    return F.normalize(centers[labels] + scatter * torch.randn(len(labels), WIDTH, generator=generator), dim=1), labels


def nmi(labels: Tensor, clusters: Tensor) -> float:
    return float(normalized_mutual_info_score(labels.numpy(), clusters.numpy()))


def by_faiss_from(centers: Tensor, vectors: Tensor) -> Tensor:
    means = faiss.Kmeans(WIDTH, CLASSES, niter=ROUNDS, min_points_per_centroid=1, max_points_per_centroid=len(vectors))
    means.train(vectors.numpy(), init_centroids=centers.numpy())
    return torch.from_numpy(means.index.search(vectors.numpy(), 1)[1].ravel())


@pytest.mark.parametrize("seed", range(3))
def test_from_the_same_centers_the_clusters_are_those_of_faiss(seed: int) -> None:
    vectors, _ = points(seed, scatter=2.5)
    first = vectors[:CLASSES].clone()
    expected = by_faiss_from(first, vectors)
    given = lloyd(vectors, first, torch.Generator())
    # Another rounding may move a vector between two centers that are equally near.
    assert float((given == expected).double().mean()) > 0.99
    assert len(expected.unique()) > CLASSES / 2


def test_over_seeds_nmi_is_that_of_faiss() -> None:
    """The first centers are drawn by other generators, so that only means compare."""
    vectors, labels = points(0)
    seeds = range(8)
    given = np.mean([nmi(labels, by_torch(vectors, CLASSES, seed)) for seed in seeds])
    expected = np.mean([nmi(labels, k_means(vectors, CLASSES, seed)) for seed in seeds])
    assert 0.7 < expected < 0.99
    assert given == pytest.approx(expected, abs=0.01)


def test_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = points(1)
    expected = by_torch(vectors, CLASSES, seed=4)
    assert not torch.equal(by_torch(vectors, CLASSES, seed=5), expected)
    torch.manual_seed(77)
    # Distances of seven vectors at a time.
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 7 * CLASSES)
    assert torch.equal(by_torch(vectors, CLASSES, seed=4), expected)


def test_empty_clusters_get_half_of_another() -> None:
    """From equal centers, which leave all but one cluster empty, as many are filled as by faiss."""
    vectors, labels = points(3)
    first = vectors[:1].repeat(CLASSES, 1)
    expected = by_faiss_from(first, vectors)
    given = lloyd(vectors, first, torch.Generator().manual_seed(0))
    assert len(expected.unique()) > 0.9 * CLASSES
    assert len(given.unique()) > 0.9 * CLASSES
    assert nmi(labels, given) == pytest.approx(nmi(labels, expected), abs=0.05)


def test_vectors_that_are_all_equal_are_clustered_too() -> None:
    assert by_torch(torch.ones(10, 3), 4, seed=0).shape == (10,)
    assert by_torch(torch.ones(10, 3), 10, seed=0).shape == (10,)


def test_distances_are_full_float32_whatever_else_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    nearest = module.nearest_centers
    monkeypatch.setattr(
        module,
        "nearest_centers",
        lambda *given: (seen.append(torch.backends.cuda.matmul.allow_tf32), nearest(*given))[1],
    )
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        by_torch(*points(2)[:1], CLASSES, seed=0)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert seen == [False] * (ROUNDS + 1)
