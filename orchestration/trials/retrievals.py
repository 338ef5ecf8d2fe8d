"""The retrievals in the report: random queries, correct ones, and the worst failures.

Only the random queries are representative; the worst failures show errors of the model or of the
labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dfml.evaluate import Embedded

NEIGHBORS = 5


class Group(NamedTuple):
    """A group of queries that are shown together.

    Attributes:
        shown: the number of queries shown.
        title: the picture's title.
        caption: a sentence on how the queries were chosen.
    """

    shown: int
    title: str
    caption: str


GROUPS = {
    "random": Group(6, "Random queries", "Queries drawn at random from all test images: a representative sample."),
    "right": Group(4, "Correct matches", "Random queries whose nearest image is of the same class."),
    "surest mistake": Group(
        4,
        "Most confident mistakes",
        "Queries with the highest cosine to a nearest image of another class: often similar images, or wrong labels.",
    ),
    "found last": Group(4, "Lowest-ranked first matches", "Queries whose first correct match is ranked lowest."),
}


def picture_of(group: str) -> str:
    """Return the name of a group's picture in `report/`, without extension."""
    return f"retrievals_{group.replace(' ', '_')}"


def pictures_of(shown: list[dict[str, Any]]) -> list[str]:
    """Return the file names of the pictures in `report/` that show the given retrievals."""
    return [f"{picture_of(group)}.png" for group in dict.fromkeys(row["drawn"] for row in shown)]


def retrievals(embedded: Embedded, seed: int) -> list[dict[str, Any]]:
    """Return queries of each of `GROUPS` with their nearest images; no query is in two groups.

    A query whose class isn't in the gallery is in neither group of failures.

    Args:
        embedded: the embedded test images.
        seed: the seed of the random draws.

    Returns:
        One dictionary per query: `query` and `nearest`, rows of their splits; `drawn`, the group;
        `right`, whether each of the nearest is of the query's class; `cosine` to each;
        `rank_of_first_match`, the number of images of other classes before the first of the
        query's own class, None if there is none.
    """
    # This module imports torch, which the driver doesn't need.
    from dfml.metrics import nearest

    queries = embedded.images.queries
    gallery = embedded.images.gallery or queries
    most = len(gallery) - (embedded.gallery is None)
    found, cosines = nearest(embedded.queries, min(NEIGHBORS, most), gallery=embedded.gallery)
    indices, cosine = found.cpu().numpy(), cosines.cpu().numpy()
    right = gallery.labels[indices] == queries.labels[:, None]  # (q, NEIGHBORS)
    rank_of_first_match = _ranks(embedded, ~right[:, 0])  # (q,), 0 if the nearest is right
    mistaken = np.flatnonzero(rank_of_first_match > 0)
    rng = np.random.default_rng(seed)
    candidates = {
        "random": rng.permutation(len(queries)),
        "right": rng.permutation(np.flatnonzero(right[:, 0])),
        "surest mistake": mistaken[np.argsort(-cosine[mistaken, 0], kind="stable")],
        "found last": mistaken[np.argsort(-rank_of_first_match[mistaken], kind="stable")],
    }
    groups: dict[int, str] = {}
    for group, (count, _, _) in GROUPS.items():
        new = [int(i) for i in candidates[group] if int(i) not in groups]
        groups |= dict.fromkeys(new[:count], group)
    return [
        {
            "query": int(queries.rows[i]),
            "drawn": group,
            "nearest": gallery.rows[indices[i]].tolist(),
            "right": right[i].tolist(),
            "cosine": cosine[i].tolist(),
            "rank_of_first_match": int(rank_of_first_match[i]) if rank_of_first_match[i] >= 0 else None,
        }
        for i, group in groups.items()
    ]


def _ranks(embedded: Embedded, failed: np.ndarray) -> np.ndarray:
    """Return for each query the number of other classes' images before its first match (q,).

    0 if the query hasn't failed, -1 if its class has no other image.
    """
    import torch

    from dfml.metrics import rank_of_first_match

    parts, device = embedded.images, embedded.queries.device
    labels = torch.from_numpy(parts.queries.labels).to(device)
    in_gallery = None if parts.gallery is None else torch.from_numpy(parts.gallery.labels).to(device)
    queries = torch.from_numpy(np.flatnonzero(failed)).to(device)
    ranks = np.zeros(len(failed), dtype=np.int64)
    ranks[failed] = rank_of_first_match(embedded.queries, labels, queries, embedded.gallery, in_gallery).cpu().numpy()
    return ranks
