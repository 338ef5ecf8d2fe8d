"""The order of training images: global batches as a pure function of (targets, batch shape, seed, epoch).

The world size doesn't enter: ranks cut the same global batches between them (`rank_share`), so a run gives the same
batches on any number of workers.
"""

from __future__ import annotations

import numpy as np

from dfml.errors import InvalidInput


def epoch_batches(
    targets: np.ndarray, batch_size: int, images_per_class: int | None, seed: int, epoch: int
) -> np.ndarray:
    """The global batches of an epoch: indices into `targets`, (steps, batch_size), no index twice.

    With `images_per_class` = K each batch holds exactly K images of each of P = batch_size / K classes. What doesn't fill a
    last batch is left out of the epoch; another epoch leaves out others.

    Raises:
        InvalidInput: there isn't enough for one batch.
    """
    rng = np.random.default_rng([seed, epoch])
    if images_per_class is None:
        steps = len(targets) // batch_size
        if steps == 0:
            raise InvalidInput(
                f"batch_size {batch_size} is larger than the {len(targets)} training images: make it smaller"
            )
        return rng.permutation(len(targets))[: steps * batch_size].reshape(steps, batch_size)
    return _balanced(targets, batch_size // images_per_class, images_per_class, rng)


def _balanced(
    targets: np.ndarray, classes_per_batch: int, images_per_class: int, rng: np.random.Generator
) -> np.ndarray:
    """P×K batches. Each takes the P classes with the most groups of K left (ties at random): this uses up all classes
    evenly, and leaves the fewest images over."""
    shuffled = rng.permutation(len(targets))
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]  # images of a class together, shuffled within
    counts = np.bincount(targets)
    groups_left = counts // images_per_class
    next_image = np.concatenate([[0], np.cumsum(counts)[:-1]])
    batches = []
    while np.count_nonzero(groups_left) >= classes_per_batch:
        chosen = np.lexsort([rng.random(len(counts)), -groups_left])[:classes_per_batch]
        picks = next_image[chosen, None] + np.arange(images_per_class)  # (P, K)
        batches.append(by_class[picks].ravel())
        groups_left[chosen] -= 1
        next_image[chosen] += images_per_class
    if not batches:
        full = np.count_nonzero(counts >= images_per_class)
        raise InvalidInput(
            f"a batch of {classes_per_batch} classes × {images_per_class} images can't be filled: {full} training classes have "
            f"{images_per_class} images or more; lower batch_size or images_per_class"
        )
    return rng.permutation(np.stack(batches))


def rank_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The part of a global batch that a rank trains on."""
    return batch[rank::world_size]
