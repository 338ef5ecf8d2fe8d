"""Decode and transform images that are in memory before the clock starts: the upper bound."""

from __future__ import annotations

from pathlib import Path

from common import Batches, Options, decode, listed, main, training_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# Forked workers inherit it.
ENCODED: list[tuple[bytes, int]] = []


class InMemory(Dataset[tuple[Tensor, int]]):
    def __init__(self) -> None:
        self.transform = training_transform()

    def __len__(self) -> int:
        return len(ENCODED)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        encoded, label = ENCODED[index]
        return self.transform(decode(encoded)), label


def batches_of(options: Options) -> Batches:
    loader = DataLoader(InMemory(), batch_size=options.batch, shuffle=True, drop_last=True, num_workers=options.workers)
    return lambda epoch: loader


def read(images: Path) -> None:
    ENCODED.extend((file.read_bytes(), label) for file, label in listed(images))


if __name__ == "__main__":
    main(batches_of, before=lambda options: read(Path(options.source)))
