"""Embedding of a folder's images: decoding on all cores, with only a few batches in memory.

B images per batch, D numbers per embedding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dfml.data.packing.cores import available
from dfml.data.streaming.transforms import evaluation_crop
from dfml.embed.folder import Undecodable, read_image
from dfml.embedding_model import EmbeddingModel
from dfml.factorized import ForwardPath

# Batches that are decoded while a GPU works on another one. On a CPU none: the model itself needs
# all cores.
AHEAD = 2


class Bad(NamedTuple):
    """An image that can't be decoded."""

    path: str
    reason: str


class Embedded(NamedTuple):
    """The embeddings of a batch of images.

    Attributes:
        paths: the paths of the decoded images.
        embeddings: their embeddings, float32 (B, D), L2-normalized.
        bad: the images that can't be decoded.
    """

    paths: list[str]
    embeddings: np.ndarray
    bad: list[Bad]


def embed_folder(
    model: EmbeddingModel, root: Path, paths: Sequence[str], path: ForwardPath, batch_size: int
) -> Iterator[Embedded]:
    """Embed images in their order, as `EmbeddingModel.embed` does.

    Args:
        model: the model, on the device to use.
        root: the folder that `paths` are relative to.
        paths: the images' paths.
        path: the model's path, "full" or "routed".
        batch_size: the most images per batch.

    Raises:
        InvalidInput: an image can't be read.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    crop = evaluation_crop(model.recipe)

    def pixels(image: str) -> np.ndarray | Bad:
        # No torch calls here: each thread would start torch's own threads. Pillow releases the GIL.
        try:
            return np.asarray(crop(read_image(root / image)))
        except Undecodable as error:
            return Bad(image, str(error))

    with ThreadPoolExecutor(available()) as pool:
        waiting: deque[tuple[Sequence[str], list[Future[np.ndarray | Bad]]]] = deque()
        try:
            for start in range(0, len(paths), batch_size):
                batch = paths[start : start + batch_size]
                waiting.append((batch, [pool.submit(pixels, image) for image in batch]))
                if len(waiting) > AHEAD * on_gpu:
                    yield _embedded(model, path, *waiting.popleft())
            while waiting:
                yield _embedded(model, path, *waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _embedded(
    model: EmbeddingModel, path: ForwardPath, batch: Sequence[str], futures: list[Future[np.ndarray | Bad]]
) -> Embedded:
    decoded = [future.result() for future in futures]
    bad = [image for image in decoded if isinstance(image, Bad)]
    images = [image for image in decoded if not isinstance(image, Bad)]
    if not images:
        return Embedded([], np.empty((0, model.embedding_size), np.float32), bad)
    paths = [name for name, image in zip(batch, decoded, strict=True) if not isinstance(image, Bad)]
    stacked = torch.from_numpy(np.stack(images))  # (B, H, W, 3) uint8
    return Embedded(paths, model.embed_pixels(stacked.movedim(-1, 1), path).numpy(), bad)
