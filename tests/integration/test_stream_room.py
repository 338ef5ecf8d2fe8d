"""A full disk, a cache smaller than the data set, damaged files in the cache; over real HTTP."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from stream_rank import BATCH_SIZE, record_of, records
from streams import assert_clean, assert_equal, epoch_of, job_of

from dfml.data.streaming.cache import Cache
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.errors import InvalidInput, RunFailed
from tests.s3.locations import SHARDS, Streamed

pytestmark = pytest.mark.integration


# --- A full disk ----------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 800 KB, which is smaller than the data set."""
    folder = tmp_path / "tiny-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a file system can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def on_disk(streamed: Streamed, disk: Path) -> ShardedImages:
    return ShardedImages(streamed.uri, "train", Cache(disk / "cache"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_that_finds_no_room_is_refused_before_any_shard(
    streamed: Streamed, tiny_disk: Path, workers: int
) -> None:
    with pytest.raises(
        InvalidInput,
        match=r"the cache \S+ would need [0-9.]+ [kM]B more, its disk has [0-9.]+ [kM]B left; make room, .*",
    ):
        epoch_of(on_disk(streamed, tiny_disk), workers=workers)
    assert all(streamed.gets(shard.file) == 0 for shard in streamed.shards)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_fills_up_under_way_is_one_sentence(
    streamed: Streamed, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    images = on_disk(streamed, tiny_disk)
    # Another program uses the space after the check.
    monkeypatch.setattr(ShardedImages, "require_room", lambda images: None)
    (tiny_disk / "other").write_bytes(bytes(400_000))
    with pytest.raises(RunFailed, match=r"^the cache \S+ is full \(\d+ bytes of \S+ don't fit .*--cache-size$"):
        epoch_of(images, workers=workers)
    for thread in threading.enumerate():
        if "_work" in thread.name:
            thread.join(10)
    cached = [path for path in (tiny_disk / "cache").iterdir() if path.suffix != ".lock"]
    assert {path.suffix for path in cached} == {".arrow", ".parquet"}
    assert all(path.stat().st_size > 0 for path in cached)
    (tiny_disk / "other").unlink()
    # With free space, reading continues.
    assert images.encoded(0) == streamed.local().encoded(0)


# --- A cache smaller than the data set ------------------------------------------------------------


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Sample the size of a folder until the block ends; yield the samples."""
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.001):
            sizes = {}
            for path in list(folder.glob("*")) if folder.exists() else []:
                try:
                    # A transfer that ends after the listing has two names but is one file.
                    sizes[path.name.removesuffix(".partial")] = path.stat().st_size
                except FileNotFoundError:
                    continue
            samples.append(sum(sizes.values()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def four_shards(streamed: Streamed) -> int:
    return 4 * max(shard.bytes for shard in streamed.shards)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_of_a_third_of_the_data_set_gives_all_rows_in_the_stated_order(
    streamed: Streamed, workers: int
) -> None:
    limit = four_shards(streamed)
    images = streamed.images(limit)
    assert images.window == 1
    with watched(streamed.cache_folder) as samples:
        epochs = [epoch_of(images, epoch, workers) for epoch in (1, 2)]
    for epoch, batches in enumerate(epochs, start=1):
        rows = np.concatenate([rows for _, rows in batches])
        assert sorted(rows) == list(range(BATCH_SIZE * SHARDS))
        assert_equal(batches, epoch_of(streamed.local(), epoch, order_of=images))
    assert limit / 2 < max(samples) <= limit
    fetched = [streamed.gets(shard.file) for shard in streamed.shards]
    assert min(fetched) >= 1
    # Shards are evicted, but not more often than the order requires.
    assert SHARDS < sum(fetched) <= 3 * SHARDS
    assert_clean(streamed)


def test_two_trials_share_a_cache_that_is_too_small_for_both(streamed: Streamed, tmp_path: Path) -> None:
    limit = four_shards(streamed)
    jobs = [job_of(streamed, limit, seed=seed, epochs=2) for seed in (0, 1)]
    outputs = [tmp_path / f"{job.seed}.jsonl" for job in jobs]
    with watched(streamed.cache_folder) as samples:
        processes = [job.start(output) for job, output in zip(jobs, outputs, strict=True)]
        for process in processes:
            process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    images = streamed.images(limit)
    expected = [record_of(epoch_of(streamed.local(), epoch, order_of=images)) for epoch in (1, 2)]
    assert records(outputs[0]) == expected
    assert len(records(outputs[1])) == 2
    assert max(samples) <= limit
    print(f"\n{sum(streamed.gets(shard.file) for shard in streamed.shards)} shards fetched for 4 epochs of {SHARDS}")
    assert_clean(streamed)


def test_a_cache_of_two_shards_is_refused(streamed: Streamed) -> None:
    with pytest.raises(InvalidInput, match=r"holds fewer than 3 shards of .* give \d+ bytes or more"):
        streamed.images(four_shards(streamed) // 2)


def test_paths_are_read_though_the_index_was_evicted(streamed: Streamed) -> None:
    images = streamed.images()
    shutil.rmtree(streamed.cache_folder)
    assert images.paths == streamed.local().paths


# --- Faults of the disk ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cached_shard_that_was_damaged_later_is_fetched_again(streamed: Streamed, workers: int) -> None:
    images = streamed.images()
    epoch_of(images)
    damage(streamed.cache_folder / f"{streamed.shards[2].sha256}.parquet")
    assert_equal(epoch_of(images, workers=workers), epoch_of(streamed.local()))
    assert 2 <= streamed.gets(streamed.shards[2].file) <= 1 + max(1, workers)
    assert_clean(streamed)


def test_a_cached_index_that_was_damaged_later_is_fetched_again(streamed: Streamed) -> None:
    streamed.images()
    (index,) = streamed.cache_folder.glob("*.arrow")
    damage(index)
    assert streamed.images().labels.tolist() == streamed.local().labels.tolist()
    assert streamed.gets("train.index.arrow") == 2
    assert_clean(streamed)


def test_a_cached_shard_that_was_cut_short_is_fetched_again(streamed: Streamed) -> None:
    """A power failure may leave a file without its content."""
    images = streamed.images()
    epoch_of(images)
    (streamed.cache_folder / f"{streamed.shards[5].sha256}.parquet").write_bytes(b"")
    assert_equal(epoch_of(images), epoch_of(streamed.local()))
    assert streamed.gets(streamed.shards[5].file) == 2
    assert_clean(streamed)


def damage(file: Path) -> None:
    """Flip one bit per 1,000 bytes; some of these belong to images."""
    content = bytearray(file.read_bytes())
    for position in range(100, len(content), 1000):
        content[position] ^= 1
    file.write_bytes(content)
