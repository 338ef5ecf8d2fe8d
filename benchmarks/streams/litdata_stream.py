"""Stream with LitData: chunks by optimize(), StreamingDataset and StreamingDataLoader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import litdata.streaming.downloader
from common import CHUNK_BYTES, Batches, Options, decode, listed, main, training_transform
from litdata import StreamingDataLoader, StreamingDataset, optimize
from torch import Tensor


def item(file: tuple[str, int]) -> dict[str, Any]:
    # Plain bytes are stored unchanged; a path that ends in .jpeg would go to a decoding serializer.
    return {"image": Path(file[0]).read_bytes(), "label": file[1]}


def prepare(images: Path, out: Path) -> None:
    optimize(
        fn=item,
        inputs=[(str(file), label) for file, label in listed(images)],
        output_dir=str(out),
        chunk_bytes=CHUNK_BYTES,
        num_workers=1,
        reorder_files=False,
    )


class Transform:
    def __init__(self) -> None:
        self.transform = training_transform()

    def __call__(self, item: dict[str, Any]) -> tuple[Tensor, int]:
        return self.transform(decode(bytes(item["image"]))), item["label"]


def batches_of(options: Options) -> Batches:
    # LitData's client for chunks refuses plain http and has no public setting to allow it.
    litdata.streaming.downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # type: ignore[typeddict-unknown-key]
    dataset = StreamingDataset(
        options.source,
        cache_dir=str(options.cache),
        shuffle=True,
        # Large enough that nothing is evicted between the epochs.
        max_cache_size="100GB",
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        transform=Transform(),
    )
    loader = StreamingDataLoader(dataset, batch_size=options.batch, drop_last=True, num_workers=options.workers)
    return lambda epoch: loader


if __name__ == "__main__":
    main(batches_of, prepare)
