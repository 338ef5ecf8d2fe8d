"""The metrics against pytorch-metric-learning's calculator and scikit-learn, ties included."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import normalized_mutual_info_score, pair_confusion_matrix
from torch import Tensor
from torch.nn import functional as F

from dfml.metrics import clustering_metrics, retrieval, retrieval_metrics
from dfml.metrics.clustering import pairwise_f1
from dfml.metrics.k_means import k_means

N, WIDTH, CLASSES = 1500, 64, 250
QUERIES = 500  # of the N images; the others are the gallery
NAMES = {"recall_at_1": "precision_at_1", "r_precision": "r_precision", "map_at_r": "mean_average_precision_at_r"}


@pytest.fixture(
    params=[
        pytest.param(2, id="most blocks passed over"),
        pytest.param(retrieval.BLOCK, id="few blocks"),
    ]
)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the block size: as for few images, and as for so many that most blocks are skipped."""
    monkeypatch.setattr(retrieval, "BLOCK", request.param)


@functools.cache
def labels() -> Tensor:
    """Return classes of very different sizes, some with one image."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.zipf(1.3, 3 * N)[:N] % CLASSES)


@functools.cache
def smooth() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(CLASSES, WIDTH, generator=generator)
    return F.normalize(centers[labels()] + 1.5 * torch.randn(N, WIDTH, generator=generator), dim=1)


@functools.cache
def quantised() -> Tensor:
    """Return signs over 8: cosines are exact multiples of 1/32, so that most neighbors are tied."""
    return smooth().sign() / 8


def stable_search(query: Tensor, k: int, reference: Tensor, ref_includes_query: bool) -> tuple[Tensor, Tensor]:
    """Find neighbors for the library's calculator by a full stable sort; ties go by lower index."""
    cosine = query.double() @ reference.double().T
    if ref_includes_query:
        cosine.fill_diagonal_(-torch.inf)
    top = cosine.sort(dim=1, descending=True, stable=True)
    return -top.values[:, :k], top.indices[:, :k]


@functools.cache
def full_sort(embeddings: Callable[[], Tensor]) -> Tensor:
    """Return each image's other images, the nearest first, (N, N - 1)."""
    return stable_search(embeddings(), N - 1, embeddings(), ref_includes_query=True)[1]


@functools.cache
def of_pytorch_metric_learning(embeddings: Callable[[], Tensor]) -> dict[str, float]:
    calculator = AccuracyCalculator(include=tuple(NAMES.values()), k="max_bin_count", knn_func=stable_search)
    return calculator.get_accuracy(embeddings(), labels())


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("embeddings", [smooth, quantised])
def test_metrics_are_those_of_pytorch_metric_learning(embeddings) -> None:  # type: ignore[no-untyped-def]
    expected = of_pytorch_metric_learning(embeddings)
    given = retrieval_metrics(embeddings(), labels())
    for ours, theirs in NAMES.items():
        assert given[ours] == pytest.approx(expected[theirs], abs=1e-6), ours


def test_without_ties_they_are_those_of_its_own_search_by_faiss() -> None:
    expected = AccuracyCalculator(include=tuple(NAMES.values()), k="max_bin_count").get_accuracy(smooth(), labels())
    given = retrieval_metrics(smooth(), labels())
    for ours, theirs in NAMES.items():
        assert given[ours] == pytest.approx(expected[theirs], abs=1e-6), ours


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("embeddings", [smooth, quantised])
def test_recalls_are_those_of_a_full_sort(embeddings) -> None:  # type: ignore[no-untyped-def]
    at = (1, 10, 100, 1000)
    given = retrieval_metrics(embeddings(), labels(), recall_at=at)
    hits = labels()[full_sort(embeddings)] == labels()[:, None]
    answerable = hits.any(1)
    first = hits[answerable].int().argmax(1)
    for k in at:
        assert given[f"recall_at_{k}"] == pytest.approx(float((first < k).double().mean()), abs=1e-6)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("embeddings", [smooth, quantised])
def test_query_and_gallery_are_those_of_pytorch_metric_learning(embeddings) -> None:  # type: ignore[no-untyped-def]
    e, y = embeddings(), labels()
    calculator = AccuracyCalculator(include=tuple(NAMES.values()), k="max_bin_count", knn_func=stable_search)
    expected = calculator.get_accuracy(e[:QUERIES], y[:QUERIES], e[QUERIES:], y[QUERIES:])
    given = retrieval_metrics(e[:QUERIES], y[:QUERIES], e[QUERIES:], y[QUERIES:], recall_at=(1, 100))
    for ours, theirs in NAMES.items():
        assert given[ours] == pytest.approx(expected[theirs], abs=1e-6), ours


@pytest.mark.usefixtures("block")
def test_collapsed_embeddings_score_no_better_than_their_order() -> None:
    """If all images are equal, the nearest of each is the first other image."""
    y = labels()
    given = retrieval_metrics(torch.ones(N, 4) / 2, y)
    others = (torch.bincount(y)[y] > 1).nonzero().flatten()
    expected = np.mean([bool(y[i] == y[1 if i == 0 else 0]) for i in others.tolist()])
    assert given["recall_at_1"] == pytest.approx(float(expected), abs=1e-6)


def test_nmi_and_f1_are_those_of_scikit_learn_on_the_same_clusters() -> None:
    e, y = smooth(), labels()
    given = clustering_metrics(e, y, seed=3)
    truth = y.unique(return_inverse=True)[1].numpy()
    clusters = k_means(e, int(truth.max()) + 1, seed=3).numpy()
    assert given["nmi"] == pytest.approx(normalized_mutual_info_score(truth, clusters), abs=1e-6)
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(truth, clusters)
    expected = 2 * true_positive / (2 * true_positive + false_positive + false_negative)
    assert given["f1"] == pytest.approx(expected, abs=1e-6)
    assert 0.3 < given["nmi"] < 1


def test_clustering_of_classes_far_apart_is_perfect() -> None:
    y = torch.arange(40) % 2
    noise = 0.01 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert clustering_metrics(torch.eye(8)[y] + noise, y) == pytest.approx({"nmi": 1.0, "f1": 1.0})


def test_f1_of_one_cluster_for_all_is_the_share_of_like_pairs() -> None:
    truth = np.array([0, 0, 0, 1])
    precision = 3 / 6
    assert pairwise_f1(truth, np.zeros(4, dtype=np.int64)) == pytest.approx(2 * precision / (precision + 1))
