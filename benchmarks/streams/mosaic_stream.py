"""MosaicML Streaming: MDS shards, StreamingDataset and StreamingDataLoader.

Its documentation calls the defaults right for nearly all cases: the shuffle (py1e over 262,144 samples, so here over all)
and `predownload` (8 batches) are left at them.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import CHUNK_BYTES, Batches, Options, decode, listed, main, training_transform
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from torch import Tensor


def prepare(images: Path, out: Path) -> None:
    # "bytes", not "jpeg": that one hands out a decoded image, and the decoding is to be the same for all.
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
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]  # the name it reads
    dataset = Images(options.source, str(options.cache), options.batch)
    # The forked workers would inherit the client that fetched index.json and talk over one and the same connection: they then
    # get each other's bytes, or wait for a minute. Without a client each makes its own.
    for stream in dataset.streams:
        stream._downloader.clean_up()
    loader = StreamingDataLoader(dataset, batch_size=options.batch, drop_last=True, num_workers=options.workers)
    return lambda epoch: loader


if __name__ == "__main__":
    main(batches_of, prepare)
