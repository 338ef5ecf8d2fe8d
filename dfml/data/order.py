"""The order of training images: global batches as a pure function of (targets, shards, batch shape, seed, epoch, window).

The world size doesn't enter: ranks cut the same global batches between them (`rank_share`), so a run gives the same
batches on any number of workers, and goes on at any step with the batches that it would have had.

An epoch goes through *chunks* of shards, one after the other, and shuffles exactly within each. As a rule there is one chunk, all
of the shards: an exact global shuffle. Where shards are still on their way (the first epoch) chunks grow from one shard, each as
large as all before it; where only some fit into the cache at a time no chunk is larger than that.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dfml.errors import InvalidInput


def epoch_batches(
    targets: np.ndarray,
    batch_size: int,
    images_per_class: int | None,
    seed: int,
    epoch: int,
    shards: np.ndarray | None = None,
    window: int | None = None,
) -> np.ndarray:
    """Return the global batches of an epoch: indices into `targets`, (steps, batch_size).

    Without `images_per_class` no index comes twice. With `images_per_class` = K each batch holds K images of each of
    P = batch_size / K classes; where K doesn't divide a class, the class's last group is filled up with images of it
    that come again, so that classes with fewer than K images are trained on like others. What doesn't fill a batch in one
    chunk goes to the next; what is left after the last chunk (images of fewer than P classes) is left out of the epoch,
    and another epoch leaves out others.

    Args:
        targets: class of each image (n,), from 0.
        batch_size: images of a global batch.
        images_per_class: None for plain shuffling.
        seed: of the run.
        epoch: from 1.
        shards: number of each image's shard (n,); None where that doesn't matter.
        window: shards in a chunk, at most; None for no limit.

    Raises:
        InvalidInput: there are too few images, or classes, for one batch.
    """
    rng = np.random.default_rng([seed, epoch])
    found: list[np.ndarray] = []
    left = np.empty(0, dtype=np.int64)
    to_come = np.bincount(targets, minlength=1)  # images of each class in the chunks that follow
    for chunk in _chunks(shards, window, epoch, len(targets), rng):
        pool = np.concatenate([left, chunk])
        if images_per_class is None:
            batches = _plain(pool, batch_size, rng)
        else:
            to_come -= np.bincount(targets[chunk], minlength=len(to_come))
            batches = _balanced(targets, pool, to_come == 0, batch_size // images_per_class, images_per_class, rng)
        found.append(batches)
        used = np.zeros(len(targets), dtype=bool)
        used[batches.ravel()] = True
        left = pool[~used[pool]]
    batches = np.concatenate(found)
    if not len(batches):
        raise InvalidInput(_unfilled(targets, batch_size, images_per_class))
    return batches


def _chunks(
    shards: np.ndarray | None, window: int | None, epoch: int, images: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The images of each chunk, ascending."""
    present = None if shards is None else np.unique(shards)
    whole = window is None or present is None or len(present) <= window
    if present is None or len(present) == 1 or (whole and epoch > 1):
        yield np.arange(images)
        return
    place = np.empty(int(present.max()) + 1, dtype=np.int64)  # of a shard among the shuffled
    place[rng.permutation(present)] = np.arange(len(present))
    place_of_image = place[shards]
    by_place = np.argsort(place_of_image, kind="stable")
    first = np.searchsorted(place_of_image[by_place], np.arange(len(present) + 1))
    start, size = 0, 1
    while start < len(present):
        end = min(len(present), start + min(size, window or size))
        yield np.sort(by_place[first[start] : first[end]])
        start, size = end, end


def _plain(pool: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    steps = len(pool) // batch_size
    return rng.permutation(pool)[: steps * batch_size].reshape(steps, batch_size)


def _balanced(
    targets: np.ndarray,
    pool: np.ndarray,
    complete: np.ndarray,
    classes_per_batch: int,
    images_per_class: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return P×K batches of the images in `pool`.

    Each batch takes the P classes with the most groups of K left (ties at random): this uses up all classes evenly, and
    leaves the fewest images over.

    Args:
        targets: class of each image (n,).
        pool: indices of the images to draw from.
        complete: for each class, whether no image of it comes in a later chunk; a remainder of its images is then
            filled up to a group of K.
        classes_per_batch: P.
        images_per_class: K.
        rng: of the epoch.
    """
    shuffled = pool[rng.permutation(len(pool))]
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]  # images of a class together, shuffled within
    counts = np.bincount(targets[pool], minlength=len(complete))
    groups_left = np.where(complete, -(-counts // images_per_class), counts // images_per_class)
    first_image = np.cumsum(counts) - counts
    drawn = np.zeros_like(counts)
    batches = []
    while np.count_nonzero(groups_left) >= classes_per_batch:
        rank = rng.random(len(counts)) - groups_left  # most groups first, ties at random
        chosen = np.argpartition(rank, classes_per_batch - 1)[:classes_per_batch]
        chosen = chosen[np.argsort(rank[chosen])]
        within = (drawn[chosen, None] + np.arange(images_per_class)) % counts[
            chosen, None
        ]  # behind the last the first again
        picks = first_image[chosen, None] + within  # (P, K)
        batches.append(by_class[picks].ravel())
        groups_left[chosen] -= 1
        drawn[chosen] += images_per_class
    if not batches:
        return np.empty((0, classes_per_batch * images_per_class), dtype=np.int64)
    return rng.permutation(np.stack(batches))


def _unfilled(targets: np.ndarray, batch_size: int, images_per_class: int | None) -> str:
    if images_per_class is None:
        return f"batch_size {batch_size} is larger than the {len(targets)} training images: make it smaller"
    return (
        f"a batch of {batch_size // images_per_class} classes × {images_per_class} images can't be filled: there are "
        f"{len(np.unique(targets))} training classes; lower batch_size or raise images_per_class"
    )


def rank_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The part of a global batch that a rank trains on."""
    return batch[rank::world_size]
