"""R@K, R-precision and MAP@R by cosine, in chunks of queries so that no n × n matrix is ever in memory.

q queries, n gallery images, D width, R the number of gallery images of a query's class (Musgrave et al., "A Metric Learning
Reality Check", ECCV 2020, §3). Of images that are equally similar to a query the one with the lower index counts as nearer: the
result is a function of the embeddings and their order alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dfml.distributed import rank, sum_over_ranks, world_size
from dfml.errors import InvalidInput

CHUNK = 256  # queries at a time
SORTED_K = 64  # R@K up to this K comes with the sorted neighbours; beyond it counting is cheaper than sorting
COUNTED = 64  # rows at a time whose entries are counted: they fit a cache


def nearest(embeddings: Tensor, k: int, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k most similar other images: indices and cosines, each (queries, k), most similar first.

    Args:
        embeddings: (n, D), L2-normalised.
        k: at most n - 1.
        queries: indices of the queries; all n without it.
    """
    queries = torch.arange(len(embeddings), device=embeddings.device) if queries is None else queries
    indices, cosines = [], []
    for _, cosine in _cosines(embeddings, embeddings, queries, exclude_self=True):
        indices.append(_sorted(cosine, k))
        cosines.append(cosine.gather(1, indices[-1]))
    return torch.cat(indices), torch.cat(cosines)


def retrieval_metrics(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, float]:
    """`recall_at_<K>`, `r_precision` and `map_at_r`, each in 0 … 1; every rank computes a share of the queries.

    Queries whose class has no (other) image in the gallery can't be answered and don't count.

    Args:
        queries: (q, D), L2-normalised, the same on every rank.
        query_labels: (q,) int64.
        gallery: (n, D); without it each query is looked for among all others.
        gallery_labels: (n,) int64; given where `gallery` is.
        recall_at: the K of R@K.

    Raises:
        InvalidInput: no query can be answered.
    """
    alone = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = queries, query_labels
    members = _Members(gallery_labels)
    r = members.count(query_labels) - int(alone)  # (q,)
    answerable = torch.nonzero(r > 0).flatten()
    if len(answerable) == 0:
        raise InvalidInput(
            f"none of {len(queries)} queries has {'another' if alone else 'an'} image of its class to be found, so there is nothing to "
            "score: give classes two images or more"
        )
    largest = int(r.max())
    k = min(len(gallery) - int(alone), max(largest, *(at for at in recall_at if at <= SORTED_K), 1))
    names = [*(f"recall_at_{at}" for at in recall_at), "r_precision", "map_at_r"]
    totals = torch.zeros(len(names), dtype=torch.float64, device=queries.device)
    place = torch.arange(1, k + 1, device=queries.device)
    for chunk, cosine in _cosines(queries, gallery, answerable[rank() :: world_size()], alone):
        labels, r_chunk = query_labels[chunk], r[chunk, None]
        hit = gallery_labels[_sorted(cosine, k)] == labels[:, None]  # (chunk, k)
        found = _recalls(cosine, hit, members.of(labels, chunk if alone else None), recall_at)
        hit_in_r = hit & (place <= r_chunk)
        precision = hit_in_r.cumsum(dim=1) / place
        found.append((hit_in_r.sum(dim=1, keepdim=True) / r_chunk).double().sum())
        found.append(((precision * hit_in_r).sum(dim=1, keepdim=True) / r_chunk).double().sum())
        totals += torch.stack(found)
    means = sum_over_ranks(totals) / len(answerable)
    return dict(zip(names, means.tolist(), strict=True))


def _cosines(queries: Tensor, gallery: Tensor, rows: Tensor, exclude_self: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of `rows` and their cosines with the gallery (chunk, n); the memory is used again for the next chunk."""
    memory = queries.new_empty(min(CHUNK, len(rows)), len(gallery))
    for chunk in rows.split(CHUNK):
        cosine = torch.mm(queries[chunk], gallery.T, out=memory[: len(chunk)])
        if exclude_self:
            cosine[torch.arange(len(chunk), device=chunk.device), chunk] = -torch.inf
        yield chunk, cosine


def _sorted(cosine: Tensor, k: int) -> Tensor:
    """Indices of the k largest of each row, largest first, of equals the lower index first."""
    top = cosine.topk(min(k + 1, cosine.shape[1]), dim=1)
    indices = top.indices[:, :k]
    tied = torch.nonzero((top.values[:, 1:] == top.values[:, :-1]).any(dim=1)).flatten()
    if len(tied):  # topk may take any of equals, in any order
        indices[tied] = cosine[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return indices


def _recalls(cosine: Tensor, hit: Tensor, members: Tensor, recall_at: Sequence[int]) -> list[Tensor]:
    """For each K the number of rows with a hit among the K nearest; `members` (rows, most) are their classes', padded with -1."""
    k = hit.shape[1]
    left = torch.nonzero(~hit.any(dim=1)).flatten() if max(recall_at) > k else hit.new_empty(0, dtype=torch.int64)
    # Where no hit is among the k nearest, the best one's place is counted.
    place = torch.cat([left, *(_place_of_best(cosine[rows], members[rows]) for rows in left.split(COUNTED))])[
        len(left) :
    ]
    return [(hit[:, :at].any(dim=1).sum() if at <= k else len(hit) - (place >= at).sum()).double() for at in recall_at]


def _place_of_best(cosine: Tensor, members: Tensor) -> Tensor:
    """How many entries come before the most similar member of each row: (rows,)."""
    candidates = cosine.gather(1, members.clamp_min(0)).masked_fill(members < 0, -torch.inf)
    best = candidates.max(dim=1, keepdim=True).values
    place = (cosine > best).sum(dim=1, dtype=torch.int32).long()
    first = members.masked_fill(candidates != best, cosine.shape[1]).min(dim=1, keepdim=True).values
    equal = cosine == best
    tied = torch.nonzero(equal.sum(dim=1, dtype=torch.int32) > 1).flatten()
    if len(tied):
        index = torch.arange(cosine.shape[1], device=cosine.device)
        place[tied] += (equal[tied] & (index < first[tied])).sum(dim=1)
    return place


class _Members:
    """The gallery's images by class, as one array sorted by label."""

    def __init__(self, labels: Tensor) -> None:
        self.sorted, self.order = labels.sort(stable=True)

    def count(self, labels: Tensor) -> Tensor:
        return torch.searchsorted(self.sorted, labels, right=True) - torch.searchsorted(self.sorted, labels)

    def of(self, labels: Tensor, but: Tensor | None) -> Tensor:
        """The members of each label's class, ascending, padded with -1 to the largest class: (labels, most).

        Args:
            labels: (rows,).
            but: for each row a member that is left out.
        """
        count = self.count(labels)[:, None]
        offset = torch.arange(int(count.max()), device=labels.device)
        places = torch.searchsorted(self.sorted, labels)[:, None] + offset
        members = self.order[places.clamp_max(len(self.order) - 1)]
        padding = offset >= count
        return members.masked_fill(padding if but is None else padding | (members == but[:, None]), -1)
