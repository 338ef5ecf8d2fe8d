"""Stream with dfml.data: shards, index, the node's cache, exact global shuffle from epoch 2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from common import CHUNK_BYTES, Batches, Options, listed, main
from torch import Tensor

from dfml.data.packing.pack import pack
from dfml.data.packing.source import ImageSource
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.order import epoch_batches
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.data.streaming.transforms import Normalization, normalized
from dfml.recipe import recipe_from

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def prepare(images: Path, out: Path) -> None:
    sources = [
        ImageSource(file, file.parent.name, file.relative_to(images).as_posix(), "train", 0, file.stat().st_size)
        for file, _ in listed(images)
    ]
    pack(sources, out, "stream", CHUNK_BYTES)


def batches_of(options: Options) -> Batches:
    subset = subset_of_classes(ShardedImages(options.source, "train", Cache(options.cache)))
    recipe = recipe_from({"batch_size": options.batch})
    loader = Loader(recipe, [subset], options.workers)

    def batches(epoch: int) -> Iterable[Sequence[Tensor]]:
        images = subset.images
        order = epoch_batches(
            subset.targets,
            options.batch,
            None,
            recipe.seed,
            epoch + 1,
            images.shard_numbers[subset.rows],
            images.window,
        )
        # As in training, this process normalizes what the others send as bytes.
        for pixels, labels in loader.training(subset, order, epoch + 1):
            yield normalized(pixels, IMAGENET, torch.device("cpu")), labels

    return batches


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(batches_of, prepare)
