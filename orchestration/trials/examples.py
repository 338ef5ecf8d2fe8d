"""Which retrievals the report shows: some at random, some that came out right, and the worst that didn't.

Random queries alone give a fair impression, and the worst failures are what tells where a model, or the labels, are wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dfml.evaluate import Embedded
from dfml.metrics import nearest, places_of_first_right
from orchestration.trials.shown import SHOWN

NEIGHBOURS = 5


def examples(embedded: Embedded, seed: int) -> list[dict[str, Any]]:
    """Queries of each group in `SHOWN` with their nearest images; no query is in two groups.

    "random": drawn from all. "right": drawn from those whose nearest image is of their class. The two others are of those whose nearest
    image is of another class: "surest mistake" those with the highest cosine to it, "found last" those with most images of other
    classes before the first of their own. A query of a class that the gallery lacks is in neither.

    Args:
        embedded: the test images.
        seed: of the draws.

    Returns:
        For each: `query` and `nearest`, rows of their splits; `drawn`, the group; `right`, which of the nearest are of the query's class;
        `cosine`, to each; `place`, how many images of other classes come before the first of its own, None where there is none.
    """
    queries = embedded.images.queries
    gallery = embedded.images.gallery or queries
    most = len(gallery) - (embedded.gallery is None)
    found, cosines = nearest(embedded.queries, min(NEIGHBOURS, most), gallery=embedded.gallery)
    indices, cosine = found.cpu().numpy(), cosines.cpu().numpy()
    right = gallery.labels[indices] == queries.labels[:, None]  # (q, NEIGHBOURS)
    place = _places(embedded, ~right[:, 0])  # (q,), 0 where the nearest is right
    mistaken = np.flatnonzero(place > 0)
    rng = np.random.default_rng(seed)
    candidates = {
        "random": rng.permutation(len(queries)),
        "right": rng.permutation(np.flatnonzero(right[:, 0])),
        "surest mistake": mistaken[np.argsort(-cosine[mistaken, 0], kind="stable")],
        "found last": mistaken[np.argsort(-place[mistaken], kind="stable")],
    }
    groups: dict[int, str] = {}
    for group, count in SHOWN.items():
        new = [int(i) for i in candidates[group] if int(i) not in groups]
        groups |= dict.fromkeys(new[:count], group)
    return [
        {
            "query": int(queries.rows[i]),
            "drawn": group,
            "nearest": gallery.rows[indices[i]].tolist(),
            "right": right[i].tolist(),
            "cosine": cosine[i].tolist(),
            "place": int(place[i]) if place[i] >= 0 else None,
        }
        for i, group in groups.items()
    ]


def _places(embedded: Embedded, failed: np.ndarray) -> np.ndarray:
    """How many images of other classes come before the first of each query's (q,); 0 where it hasn't failed, -1 where it has none."""
    parts, device = embedded.images, embedded.queries.device
    labels = torch.from_numpy(parts.queries.labels).to(device)
    in_gallery = None if parts.gallery is None else torch.from_numpy(parts.gallery.labels).to(device)
    queries = torch.from_numpy(np.flatnonzero(failed)).to(device)
    places = np.zeros(len(failed), dtype=np.int64)
    places[failed] = (
        places_of_first_right(embedded.queries, labels, queries, embedded.gallery, in_gallery).cpu().numpy()
    )
    return places
