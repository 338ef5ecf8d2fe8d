"""Dozens of processes on a node cost one download, as counted by the proxy of a real server."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stream_rank import Job, rows_seen

from dfml.data.format.manifest import FILE_NAME, read_manifest
from dfml.data.packing.pack import pack
from dfml.data.streaming.order import rank_share
from dfml.data.streaming.sharded_images import ShardedImages
from tests.s3.locations import noisy_images, upload
from tests.s3.proxy import Proxy
from tests.s3.servers import Server, ceph_available

pytestmark = pytest.mark.integration

TRIALS, RANKS, WORKERS, EPOCHS = 4, 2, 2, 3
# Maximum download, in multiples of the data set's bytes.
MOST = 1.02


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack 23 MB in shards of 2 MB."""
    folder = tmp_path_factory.mktemp("some-megabytes")
    pack(noisy_images(100, side=512), folder, "noise", shard_bytes=2 * 2**20)
    return folder


def test_many_trials_on_a_node_read_the_data_set_once(
    request: pytest.FixtureRequest, data_set: Path, tmp_path: Path
) -> None:
    server: Server = request.getfixturevalue("ceph" if ceph_available() else "moto")
    uri = upload(data_set, server)
    with Proxy(server.endpoint, latency=0.02) as proxy:
        environment = replace(server, endpoint=proxy.endpoint).environment()
        jobs = [
            Job(uri, tmp_path / "cache", environment, None, seed, rank, RANKS, EPOCHS, WORKERS)
            for seed, rank in itertools.product(range(TRIALS), range(RANKS))
        ]
        outputs = [tmp_path / f"{number}.jsonl" for number in range(len(jobs))]
        processes = [job.start(output) for job, output in zip(jobs, outputs, strict=True)]
        for process in processes:
            process.join(100)
        counts = proxy.counts()
    assert [process.exitcode for process in processes] == [0] * len(processes)

    images = ShardedImages(data_set, "train")
    for job, output in zip(jobs, outputs, strict=True):
        seen = rows_seen(output)
        assert len(seen) == EPOCHS
        for epoch, rows in enumerate(seen, start=1):
            batches = job.order(images, epoch)
            assert rows == np.concatenate([rank_share(batch, job.rank, RANKS) for batch in batches]).tolist()

    manifest = read_manifest(data_set)
    files = [*manifest.shards, manifest.splits["train"].index]
    gets = {path.rpartition("/")[2]: count for path, count in counts["gets"].items()}
    assert gets == {**{file.file: 1 for file in files}, FILE_NAME: len(jobs)}
    data = sum(file.bytes for file in files) + (data_set / FILE_NAME).stat().st_size
    read = sum(counts["bytes"].values())
    print(
        f"\n{server.name}: {len(jobs)} ranks × {WORKERS} loader workers × {EPOCHS} epochs read {read:,} bytes "
        f"of a data set of {data:,} ({len(manifest.shards)} shards): {read / data:.4f} times"
    )
    assert read <= MOST * data
