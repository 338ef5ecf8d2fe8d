"""The retrievals in the report, against a full sort of each query's cosines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dfml.evaluate import Embedded
from orchestration.trials.retrievals import GROUPS, NEIGHBORS, retrievals

QUERIES, GALLERY, CLASSES = 60, 45, 9


@dataclass
class Part:
    """The labels and rows of a split; row i is its member i - 100."""

    labels: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        return np.arange(len(self.labels)) + 100

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Set:
    queries: Part
    gallery: Part | None


def embedded(with_gallery: bool) -> Embedded:
    """Return vectors of which about half are near their class's center.

    The gallery has no image of the last two classes.
    """
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(CLASSES, 8))

    def part(count: int, classes: int) -> tuple[Part, torch.Tensor]:
        labels = rng.integers(0, classes, count)
        vectors = torch.from_numpy(centers[labels] + rng.normal(size=(count, 8)) * 1.2).float()
        return Part(labels), torch.nn.functional.normalize(vectors, dim=1)

    queries, vectors = part(QUERIES, CLASSES)
    gallery, in_gallery = part(GALLERY, CLASSES - 2) if with_gallery else (None, None)
    return Embedded(Set(queries, gallery), vectors, in_gallery)  # type: ignore[arg-type]


@pytest.mark.parametrize("with_gallery", [False, True])
def test_each_group_is_what_a_full_sort_says(with_gallery: bool) -> None:
    of = embedded(with_gallery)
    labels = of.images.queries.labels
    in_gallery = of.images.gallery.labels if of.images.gallery else labels
    cosine = (of.queries @ (of.queries if of.gallery is None else of.gallery).T).numpy()
    if not with_gallery:
        np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")
    if not with_gallery:
        order = order[:, :-1]
    hits = in_gallery[order] == labels[:, None]
    answerable = hits.any(axis=1)
    rank_of_first_match = np.where(answerable, hits.argmax(axis=1), -1)
    mistaken = np.flatnonzero(rank_of_first_match > 0)

    shown = retrievals(of, seed=1)
    groups = {group: [row["query"] - 100 for row in shown if row["drawn"] == group] for group in GROUPS}
    assert {group: len(found) for group, found in groups.items()} == {
        group: each.shown for group, each in GROUPS.items()
    }
    assert len({row["query"] for row in shown}) == len(shown)
    for row in shown:
        query = row["query"] - 100
        assert [n - 100 for n in row["nearest"]] == order[query, :NEIGHBORS].tolist()
        assert row["right"] == hits[query, :NEIGHBORS].tolist()
        assert row["cosine"] == pytest.approx(cosine[query, order[query, :NEIGHBORS]].tolist(), abs=1e-6)
        assert row["rank_of_first_match"] == (rank_of_first_match[query] if answerable[query] else None)
    assert all(rank_of_first_match[query] == 0 for query in groups["right"])
    left = [i for i in mistaken if i not in groups["random"]]
    surest = sorted(left, key=lambda i: -cosine[i].max())[: GROUPS["surest mistake"].shown]
    assert groups["surest mistake"] == surest
    left = [i for i in left if i not in surest]
    assert [rank_of_first_match[i] for i in groups["found last"]] == sorted(
        (int(rank_of_first_match[i]) for i in left), reverse=True
    )[: GROUPS["found last"].shown]
    assert with_gallery != bool(answerable.all())


def test_another_seed_draws_others_but_finds_the_same_failures() -> None:
    of = embedded(with_gallery=True)
    first, second = (retrievals(of, seed) for seed in (1, 2))

    def queries(shown: list[dict[str, object]], group: str) -> set[object]:
        return {row["query"] for row in shown if row["drawn"] == group}

    assert queries(first, "random") != queries(second, "random")
    assert queries(first, "surest mistake") & queries(second, "surest mistake")
