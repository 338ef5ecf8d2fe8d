"""Retrieval metrics against pytorch-metric-learning's calculator and a loop over queries."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor
from torch.nn import functional as F

from dfml.errors import InvalidInput
from dfml.metrics import nearest, rank_of_first_match, retrieval, retrieval_metrics


def points(sizes: list[int], seed: int) -> tuple[Tensor, Tensor]:
    """Return loose clusters of the given sizes, in random order, and labels with gaps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)) * 3 + 5, torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centers = torch.randn(int(labels.max()) + 1, 12, generator=generator)
    return F.normalize(centers[labels] + 1.5 * torch.randn(len(labels), 12, generator=generator), dim=1), labels


@pytest.fixture(autouse=True, params=[1, 2, retrieval.BLOCK])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", request.param)


UNEQUAL = [2, 3, 4, 7, 12, 20, 2, 5]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("sizes", [UNEQUAL, [*UNEQUAL, 1, 1, 1]], ids=["unequal", "with classes of one image"])
def test_equal_to_pytorch_metric_learning(
    sizes: list[int], chunk: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_PER_CHUNK", chunk)
    embeddings, labels = points(sizes, seed)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"), k="max_bin_count"
    )
    truth = calculator.get_accuracy(embeddings, labels)
    given = retrieval_metrics(embeddings, labels)
    assert 0.1 < truth["precision_at_1"] < 0.9  # else equality would prove little
    assert given["recall_at_1"] == pytest.approx(truth["precision_at_1"])
    assert given["r_precision"] == pytest.approx(truth["r_precision"])
    assert given["map_at_r"] == pytest.approx(truth["mean_average_precision_at_r"])


@pytest.mark.parametrize("chunk", [7, 1024])
def test_recall_is_that_of_a_loop_over_queries(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_PER_CHUNK", chunk)
    embeddings, labels = points([*UNEQUAL, 1, 1], seed=5)
    given = retrieval_metrics(embeddings, labels, recall_at=(1, 2, 5, 10))
    found: dict[int, list[bool]] = {1: [], 2: [], 5: [], 10: []}
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query]
        if not any(labels[i] == labels[query] for i in others):
            continue
        others.sort(key=lambda i, query=query: float(embeddings[query] @ embeddings[i]), reverse=True)
        for k, hits in found.items():
            hits.append(any(labels[i] == labels[query] for i in others[:k]))
    for k, hits in found.items():
        assert given[f"recall_at_{k}"] == pytest.approx(sum(hits) / len(hits))


def test_images_alone_in_their_class_do_not_count() -> None:
    apart = torch.eye(4)
    embeddings = torch.stack([apart[0], apart[0], apart[1], apart[2]])
    assert retrieval_metrics(embeddings, torch.tensor([0, 0, 1, 2])) == {
        "recall_at_1": 1.0,
        "recall_at_2": 1.0,
        "recall_at_4": 1.0,
        "recall_at_8": 1.0,
        "r_precision": 1.0,
        "map_at_r": 1.0,
    }


def test_fewer_images_than_k() -> None:
    embeddings = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.9, 0.1]]), dim=1)
    given = retrieval_metrics(embeddings, torch.tensor([0, 0, 1]), recall_at=(1, 8))
    assert (given["recall_at_1"], given["recall_at_8"]) == (0.0, 1.0)


@pytest.mark.parametrize("chunk", [1, 1024])
def test_nearest_finds_the_others_most_similar_first(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_PER_CHUNK", chunk)
    angles = torch.tensor([0.0, 1.0, 0.3, 0.1])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    indices, cosines = nearest(embeddings, 3, queries=torch.tensor([0, 1]))
    assert indices.tolist() == [[3, 2, 1], [2, 3, 0]]
    torch.testing.assert_close(cosines[0], torch.tensor([0.1, 0.3, 1.0]).cos())


@pytest.mark.parametrize("alone", [True, False], ids=["among each other", "in a gallery"])
def test_nothing_to_be_found_is_refused(alone: bool) -> None:
    gallery = () if alone else (torch.eye(4)[2:], torch.tensor([7, 8]))
    with pytest.raises(InvalidInput, match=r"none of 2 queries .* two images or more"):
        retrieval_metrics(torch.eye(4)[:2], torch.tensor([0, 1]), *gallery)


@pytest.mark.parametrize("alone", [True, False])
def test_the_place_of_the_first_right_image_is_that_of_a_full_sort(alone: bool) -> None:
    embeddings, labels = points([*UNEQUAL, 1], seed=6)
    gallery, in_gallery = (embeddings, labels) if alone else points(UNEQUAL[:-2], seed=7)
    queries = torch.arange(1, len(labels), 3)
    cosine = embeddings @ gallery.T
    expected = []
    for query in queries.tolist():
        order = [i for i in cosine[query].argsort(descending=True).tolist() if not (alone and i == query)]
        hits = [rank for rank, i in enumerate(order) if in_gallery[i] == labels[query]]
        expected.append(hits[0] if hits else -1)
    given = rank_of_first_match(embeddings, labels, queries, *(() if alone else (gallery, in_gallery)))
    assert given.tolist() == expected
    assert max(expected) > 10
    assert -1 in expected or alone
