"""The order of training images.

Global batches are a pure function of (targets, shards, batch shape, seed, epoch, window). The world
size doesn't matter: ranks divide the same global batches (`rank_share`), so a run has the same
batches on any number of workers, and resumes at any step with the batches that it would have had.

An epoch goes through *chunks* of shards, one after the other, and shuffles exactly within each.
Usually one chunk holds all shards: an exact global shuffle. While shards are being fetched (the
first epoch) chunks grow from one shard, each as large as all before it; if the cache holds only
some of the shards, no chunk is larger than that.
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

    With plain shuffling no index occurs twice. With `images_per_class` = K each batch holds K
    images of each of P = batch_size / K classes. If K doesn't divide the size of a class, its last
    group is filled up with images that occur again, so that classes with fewer than K images are
    trained on, too. Images that don't fill a batch in one chunk go to the next. Images left after
    the last chunk (of fewer than P classes) are left out of the epoch; another epoch leaves out
    others.

    Args:
        targets: the class of each image (n,), from 0.
        batch_size: the images per global batch.
        images_per_class: K; None: plain shuffling.
        seed: the run's seed.
        epoch: the epoch, from 1.
        shards: the number of each image's shard (n,); None: all images are in one chunk.
        window: the most shards per chunk; None: no limit.

    Raises:
        InvalidInput: there are too few images or classes for one batch.
    """
    rng = np.random.default_rng([seed, epoch])
    found: list[np.ndarray] = []
    left = np.empty(0, dtype=np.int64)
    # The images of each class in later chunks.
    to_come = np.bincount(targets, minlength=1)
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
    """Yield the images of each chunk, ascending."""
    present = None if shards is None else np.unique(shards)
    whole = window is None or present is None or len(present) <= window
    if present is None or len(present) == 1 or (whole and epoch > 1):
        yield np.arange(images)
        return
    # The position of each shard in the shuffled order.
    shard_rank = np.empty(int(present.max()) + 1, dtype=np.int64)
    shard_rank[rng.permutation(present)] = np.arange(len(present))
    image_rank = shard_rank[shards]
    by_rank = np.argsort(image_rank, kind="stable")
    first = np.searchsorted(image_rank[by_rank], np.arange(len(present) + 1))
    start, size = 0, 1
    while start < len(present):
        end = min(len(present), start + min(size, window or size))
        yield np.sort(by_rank[first[start] : first[end]])
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

    Each batch takes the P classes with the most groups of K left (ties at random). This uses up all
    classes evenly and leaves the fewest images unused.

    Args:
        targets: the class of each image (n,).
        pool: the indices of the images to draw from.
        complete: for each class, whether later chunks hold no image of it; a remainder of its
            images is then filled up to a group of K.
        classes_per_batch: P.
        images_per_class: K.
        rng: the epoch's generator.
    """
    shuffled = pool[rng.permutation(len(pool))]
    # Grouped by class, shuffled within each class.
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    counts = np.bincount(targets[pool], minlength=len(complete))
    groups_left = np.where(complete, -(-counts // images_per_class), counts // images_per_class)
    first_image = np.cumsum(counts) - counts
    drawn = np.zeros_like(counts)
    batches = []
    while np.count_nonzero(groups_left) >= classes_per_batch:
        # Classes with the most groups first, ties at random.
        rank = rng.random(len(counts)) - groups_left
        chosen = np.argpartition(rank, classes_per_batch - 1)[:classes_per_batch]
        chosen = chosen[np.argsort(rank[chosen])]
        # After a class's last image its first one occurs again.
        within = (drawn[chosen, None] + np.arange(images_per_class)) % counts[chosen, None]
        picks = first_image[chosen, None] + within  # (P, K)
        batches.append(by_class[picks].ravel())
        groups_left[chosen] -= 1
        drawn[chosen] += images_per_class
    if not batches:
        return np.empty((0, classes_per_batch * images_per_class), dtype=np.int64)
    return rng.permutation(np.stack(batches))


def _unfilled(targets: np.ndarray, batch_size: int, images_per_class: int | None) -> str:
    if images_per_class is None:
        return f"batch_size {batch_size} is larger than the {len(targets)} training images; make it smaller"
    return (
        f"a batch of {batch_size // images_per_class} classes × {images_per_class} images can't be filled: there are "
        f"only {len(np.unique(targets))} training classes; lower batch_size or raise images_per_class"
    )


def rank_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return the part of a global batch that a rank trains on."""
    return batch[rank::world_size]
