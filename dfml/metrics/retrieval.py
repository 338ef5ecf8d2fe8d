"""R@K, R-precision and MAP@R by cosine, in chunks of queries so that no n × n matrix is in memory.

q queries, n gallery images, D width, R the number of gallery images of a query's class (Musgrave et
al., "A Metric Learning Reality Check", ECCV 2020, §3). Of equally similar images, the one with the
lower index counts as nearer, so the result depends only on the embeddings and their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dfml.distributed import rank, sum_over_ranks, world_size
from dfml.errors import InvalidInput
from dfml.precision import tf32

QUERIES_PER_CHUNK = 256
BLOCK = 256  # gallery images that are skipped together if their largest cosine is too small
SORTED_K = 64  # R@K up to this K is read from sorted neighbors; above it, counting is cheaper than sorting


def nearest(
    embeddings: Tensor, k: int, queries: Tensor | None = None, gallery: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the k most similar images of each query.

    Args:
        embeddings: the L2-normalized embeddings (n, D).
        k: the number of images, at most n - 1 or the gallery's size.
        queries: the indices of the queries in `embeddings`; None: all n.
        gallery: the gallery's embeddings (g, D); None: search among all other embeddings.

    Returns:
        Their indices and cosines, each (queries, k), most similar first.
    """
    exclude_self, gallery = gallery is None, embeddings if gallery is None else gallery
    queries = torch.arange(len(embeddings), device=embeddings.device) if queries is None else queries
    indices, cosines = [], []
    for _, chunk in _cosines(embeddings, gallery, queries, exclude_self):
        indices.append(chunk.nearest(k))
        cosines.append(chunk.all.gather(1, indices[-1]))
    return torch.cat(indices), torch.cat(cosines)


def retrieval_metrics(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, float]:
    """Return `recall_at_<K>`, `r_precision` and `map_at_r`, each in 0 … 1.

    Every rank computes a share of the queries. A query doesn't count if its class has no (other)
    image in the gallery.

    Args:
        queries: the L2-normalized embeddings (q, D) of the queries, the same on every rank.
        query_labels: the labels (q,) of the queries, int64.
        gallery: the gallery's embeddings (n, D); None: search among all other queries.
        gallery_labels: the gallery's labels (n,), int64; required with `gallery`.
        recall_at: the values of K for R@K.

    Raises:
        InvalidInput: no query counts.
    """
    alone = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = queries, query_labels
    members = _Members(gallery_labels)
    r = members.count(query_labels) - int(alone)  # (q,)
    answerable = torch.nonzero(r > 0).flatten()
    if len(answerable) == 0:
        raise InvalidInput(
            f"none of {len(queries)} queries has {'another' if alone else 'an'} image of its class to find; "
            "give each class two images or more"
        )
    largest = int(r.max())
    k = min(len(gallery) - int(alone), max(largest, *(at for at in recall_at if at <= SORTED_K), 1))
    names = [*(f"recall_at_{at}" for at in recall_at), "r_precision", "map_at_r"]
    totals = torch.zeros(len(names), dtype=torch.float64, device=queries.device)
    ranks = torch.arange(1, k + 1, device=queries.device)
    for rows, cosines in _cosines(queries, gallery, answerable[rank() :: world_size()], alone):
        labels, r_chunk = query_labels[rows], r[rows, None]
        hit = gallery_labels[cosines.nearest(k)] == labels[:, None]  # (rows, k)
        found = _recalls(cosines, hit, members.of(labels, rows if alone else None), recall_at)
        hit_in_r = hit & (ranks <= r_chunk)
        precision = hit_in_r.cumsum(dim=1) / ranks
        found.append((hit_in_r.sum(dim=1, keepdim=True) / r_chunk).double().sum())
        found.append(((precision * hit_in_r).sum(dim=1, keepdim=True) / r_chunk).double().sum())
        totals += torch.stack(found)
    means = sum_over_ranks(totals) / len(answerable)
    return dict(zip(names, means.tolist(), strict=True))


def rank_of_first_match(
    embeddings: Tensor,
    labels: Tensor,
    queries: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
) -> Tensor:
    """Count the images of other classes before the first image of each query's class.

    Args:
        embeddings: the L2-normalized embeddings (n, D).
        labels: the labels (n,), int64.
        queries: the indices of the queries in `embeddings`.
        gallery: the gallery's embeddings (g, D); None: search among all other embeddings.
        gallery_labels: the gallery's labels (g,), int64; required with `gallery`.

    Returns:
        The counts (queries,), int64; -1 if there is no image of the query's class.
    """
    alone = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    members = _Members(gallery_labels)
    answerable = members.count(labels[queries]) > int(alone)
    found = torch.full_like(queries, -1)
    if answerable.any():
        ranks = [
            cosines.rank_of_best(
                torch.arange(len(rows), device=rows.device), members.of(labels[rows], rows if alone else None)
            )
            for rows, cosines in _cosines(embeddings, gallery, queries[answerable], alone)
        ]
        found[answerable] = torch.cat(ranks)
    return found


class _Cosines:
    """The cosines of some queries with the whole gallery.

    Args:
        all: the cosines (rows, n), padded with -inf to whole blocks.

    Attributes:
        maxima: the largest cosine of each block (rows, blocks), which saves passes over `all`.
    """

    def __init__(self, all: Tensor) -> None:
        self.all = all
        self.maxima = all.unflatten(1, (-1, BLOCK)).amax(dim=2)

    def nearest(self, k: int) -> Tensor:
        """Return the indices of the k largest entries per row, largest first; ties by index."""
        wanted = min(k + 1, self.all.shape[1])
        if wanted < self.maxima.shape[1]:
            # An entry outside the k + 1 blocks with the largest maxima has k + 1 entries before it.
            blocks = self.maxima.topk(wanted, dim=1).indices
            top = self._entries(blocks).flatten(1).topk(wanted, dim=1)
            indices = blocks.gather(1, top.indices // BLOCK) * BLOCK + top.indices % BLOCK
        else:
            top = self.all.topk(wanted, dim=1)
            indices = top.indices
        indices = indices[:, :k]
        tied = torch.nonzero((top.values[:, 1:] == top.values[:, :-1]).any(dim=1)).flatten()
        # topk chooses and orders equal entries arbitrarily.
        if len(tied):
            indices[tied] = self.all[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        return indices

    def _entries(self, blocks: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the entries (…, BLOCK) of blocks in all rows (rows, …), or in the given rows."""
        rows = torch.arange(len(self.all), device=blocks.device)[:, None] if rows is None else rows
        return self.all.view(-1, BLOCK)[rows * self.maxima.shape[1] + blocks]

    def rank_of_best(self, rows: Tensor, members: Tensor) -> Tensor:
        """Count the entries before the most similar member of each of the given rows.

        Args:
            rows: the rows (r,).
            members: the indices of gallery images (r, most), padded with -1.
        """
        candidates = self.all[rows[:, None], members.clamp_min(0)].masked_fill(members < 0, -torch.inf)
        best = candidates.max(dim=1, keepdim=True).values
        first = members.masked_fill(candidates != best, self.all.shape[1]).min(dim=1, keepdim=True).values
        row, block = torch.nonzero(self.maxima[rows] >= best, as_tuple=True)  # no other block has an entry before it
        entries, best, first = self._entries(block, rows[row]), best[row], first[row]
        index = block[:, None] * BLOCK + torch.arange(BLOCK, device=block.device)
        before = (entries > best) | ((entries == best) & (index < first))
        return torch.zeros_like(rows).index_add_(0, row, before.sum(dim=1))


def _cosines(queries: Tensor, gallery: Tensor, rows: Tensor, exclude_self: bool) -> Iterator[tuple[Tensor, _Cosines]]:
    """Yield chunks of `rows` and their cosines with the gallery, in memory that is reused."""
    n = len(gallery)
    memory = queries.new_full((min(QUERIES_PER_CHUNK, len(rows)), -(-n // BLOCK) * BLOCK), -torch.inf)
    for chunk in rows.split(QUERIES_PER_CHUNK):
        cosine = memory[: len(chunk)]
        with tf32(allowed=False):
            torch.mm(queries[chunk], gallery.T, out=cosine[:, :n])
        if exclude_self:
            cosine[torch.arange(len(chunk), device=chunk.device), chunk] = -torch.inf
        yield chunk, _Cosines(cosine)


def _recalls(cosines: _Cosines, hit: Tensor, members: Tensor, recall_at: Sequence[int]) -> list[Tensor]:
    """Return for each K the number of rows with a hit among the K nearest.

    `members` are the gallery images (rows, most) of each row's class, padded with -1.
    """
    k = hit.shape[1]
    rank = hit.new_empty(0, dtype=torch.int64)
    # If no hit is among the k nearest, the rank of the best hit is counted.
    if max(recall_at) > k:
        left = torch.nonzero(~hit.any(dim=1)).flatten()
        rank = cosines.rank_of_best(left, members[left])
    return [(hit[:, :at].any(dim=1).sum() if at <= k else len(hit) - (rank >= at).sum()).double() for at in recall_at]


class _Members:
    """The gallery's images by class, in one array sorted by label."""

    def __init__(self, labels: Tensor) -> None:
        self.sorted, self.order = labels.sort(stable=True)

    def count(self, labels: Tensor) -> Tensor:
        return torch.searchsorted(self.sorted, labels, right=True) - torch.searchsorted(self.sorted, labels)

    def of(self, labels: Tensor, but: Tensor | None) -> Tensor:
        """Return the members of each label's class: (rows, most), ascending, padded with -1.

        Args:
            labels: the labels (rows,).
            but: a member to leave out of each row; None: leave out none.
        """
        count = self.count(labels)[:, None]
        offset = torch.arange(int(count.max()), device=labels.device)
        positions = torch.searchsorted(self.sorted, labels)[:, None] + offset
        members = self.order[positions.clamp_max(len(self.order) - 1)]
        padding = offset >= count
        return members.masked_fill(padding if but is None else padding | (members == but[:, None]), -1)
