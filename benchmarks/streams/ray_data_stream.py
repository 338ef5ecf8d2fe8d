"""Stream with Ray Data: Parquet files, read_parquet, map_batches and iter_torch_batches.

Ray Data keeps no copy on disk: it reads the files again in every epoch, as its documentation
advises for data sets that don't fit into the object store. A cluster with as many CPUs as the
others have worker processes is started before the clock. Shuffling follows its guide: the order of
the files, and a local buffer as long as LitData's window of 256.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from common import CHUNK_BYTES, Batches, Options, decode, listed, main, training_transform
from pyarrow.fs import S3FileSystem
from torch import Tensor

SHUFFLE_BUFFER = 256
OBJECT_STORE_BYTES = 2 * 2**30


def prepare(images: Path, out: Path) -> None:
    out.mkdir(parents=True)
    rows: list[tuple[bytes, int]] = []
    size = files = 0

    def write() -> None:
        columns = {"image": [image for image, _ in rows], "label": [label for _, label in rows]}
        pq.write_table(pa.table(columns), out / f"{files:05d}.parquet", compression="none")

    for file, label in listed(images):
        encoded = file.read_bytes()
        if size + len(encoded) > CHUNK_BYTES:
            write()
            rows, size, files = [], 0, files + 1
        rows.append((encoded, label))
        size += len(encoded)
    write()


def transformed(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    transform = training_transform()
    return {
        "image": np.stack([transform(decode(encoded)).numpy() for encoded in batch["image"]]),
        "label": batch["label"],
    }


def start(options: Options) -> None:
    ray.init(
        num_cpus=options.workers,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False


def batches_of(options: Options) -> Batches:
    filesystem = S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], region=os.environ["AWS_DEFAULT_REGION"])
    dataset = ray.data.read_parquet(options.source.removeprefix("s3://"), filesystem=filesystem, shuffle="files")
    dataset = dataset.map_batches(transformed, batch_size=options.batch)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in dataset.iter_torch_batches(
            batch_size=options.batch,
            drop_last=True,
            prefetch_batches=2,
            local_shuffle_buffer_size=max(SHUFFLE_BUFFER, options.batch),
        ):
            yield batch["image"], batch["label"]

    return batches


if __name__ == "__main__":
    main(batches_of, prepare, before=start)
