"""Read torchvision's ImageFolder from the local disk, without S3 and perhaps from page cache."""

from __future__ import annotations

from common import Batches, Options, main, training_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder


def batches_of(options: Options) -> Batches:
    dataset = ImageFolder(options.source, training_transform())
    loader = DataLoader(dataset, batch_size=options.batch, shuffle=True, drop_last=True, num_workers=options.workers)
    return lambda epoch: loader


if __name__ == "__main__":
    main(batches_of)
