"""Stream with MosaicML Streaming: MDS shards, StreamingDataset and StreamingDataLoader.

Its documentation calls the defaults right for nearly all cases, so the shuffle (py1e over 262,144
samples, that is over all samples here) and `predownload` (8 batches) keep them.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import CHUNK_BYTES, Batches, Options, decode, listed, main, training_transform
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from torch import Tensor


def prepare(images: Path, out: Path) -> None:
    # "jpeg" would return decoded images, but all contenders must decode in the same way.
    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=str(out), columns=columns, compression=None, size_limit=CHUNK_BYTES) as writer:
        for file, label in listed(images):
            writer.write({"image": file.read_bytes(), "label": label})


class Images(StreamingDataset):  # type: ignore[misc]
    def __init__(self, remote: str, local: str, batch: int) -> None:
        super().__init__(remote=remote, local=local, shuffle=True, batch_size=batch)
        self.transform = training_transform()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:  # type: ignore[override]
        item = super().__getitem__(index)
        return self.transform(decode(item["image"])), item["label"]


def batches_of(options: Options) -> Batches:
    # MosaicML Streaming reads this variable instead.
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    dataset = Images(options.source, str(options.cache), options.batch)
    # Forked workers would inherit the client that fetched index.json and share its connection: they
    # would get each other's bytes, or wait for a minute. After this each worker makes its own.
    for stream in dataset.streams:
        stream._downloader.clean_up()
    loader = StreamingDataLoader(dataset, batch_size=options.batch, drop_last=True, num_workers=options.workers)
    return lambda epoch: loader


if __name__ == "__main__":
    main(batches_of, prepare)
