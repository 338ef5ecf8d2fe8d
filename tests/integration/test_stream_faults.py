"""A server, a network or a process fails while a data set is streamed over real HTTP."""

from __future__ import annotations

import itertools
import multiprocessing
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from stream_rank import record_of, records
from streams import always, assert_clean, assert_equal, epoch_of, job_of, once

from dfml import s3
from dfml.data.format.manifest import FILE_NAME, FORMAT_VERSION
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.errors import InvalidInput
from tests.s3.faults import Fault
from tests.s3.locations import Streamed, use
from tests.s3.proxy import Proxy
from tests.s3.servers import Server

pytestmark = pytest.mark.integration

SHARD = "train-00003.parquet"
HASH = "[0-9a-f]{64}"
# Seconds within which an error counts as immediate, on a machine with other load.
AT_ONCE = s3.RETRY_SECONDS / 4
# Seconds of an outage: dozens of tries with the short pauses below.
AWAY = 6.0


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.05)


# --- A process is killed --------------------------------------------------------------------------


def test_others_go_on_when_the_process_that_fetches_is_killed(streamed: Streamed, tmp_path: Path) -> None:
    victim_fetches = threading.Event()

    def slow_at_first(method: str, path: str, number: int) -> Fault | None:
        if path == streamed.path(SHARD) and number == 0:
            victim_fetches.set()
            # At this pace a shard takes two minutes.
            return Fault(pace=1000.0)
        return None

    streamed.proxy.fault = slow_at_first
    job = job_of(streamed)
    # All processes need the shards in the same order, so all soon wait for this shard.
    processes = [job.start(tmp_path / f"{number}.jsonl") for number in range(3)]
    assert victim_fetches.wait(60)
    time.sleep(1.0)
    victim = holder_of(streamed.cache_folder, {process.pid for process in processes})
    killed = time.monotonic()
    next(process for process in processes if process.pid == victim).kill()
    others = [number for number, process in enumerate(processes) if process.pid != victim]
    for number in others:
        processes[number].join(60)
        assert processes[number].exitcode == 0
    # The victim's own loader processes may take 5 s of these to notice.
    assert time.monotonic() - killed < 15
    expected = record_of(epoch_of(streamed.local()))
    for number in others:
        assert records(tmp_path / f"{number}.jsonl") == [expected]
    assert streamed.gets(SHARD) == 2
    assert_clean(streamed)


def holder_of(cache: Path, candidates: set[int | None]) -> int:
    """Return the rank that writes the partial file, itself or through a loader process."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()).startswith(str(cache)) and ".partial" in link.readlink().name:
                owner = int(link.parts[2])
                parent = int((Path("/proc") / str(owner) / "stat").read_text().rpartition(")")[2].split()[1])
                found = [process for process in (owner, parent) if process in candidates]
                if found:
                    return found[0]
        # The process has ended, or its files aren't readable.
        except OSError:
            continue
    raise AssertionError("no process fetches")


# --- Replies are damaged --------------------------------------------------------------------------

ONCE = [
    pytest.param(Fault(cut_after=30_000), id="cut"),
    pytest.param(Fault(truncate=30_000), id="truncated"),
    pytest.param(Fault(flip=30_000), id="bit flipped"),
    pytest.param(Fault(status=500), id="500"),
    pytest.param(Fault(status=503, code="SlowDown"), id="503"),
    pytest.param(Fault(status=429, code="TooManyRequests"), id="429"),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ONCE)
def test_a_shard_that_comes_wrong_once_is_fetched_again(streamed: Streamed, fault: Fault, workers: int) -> None:
    once(streamed, SHARD, fault)
    assert_equal(epoch_of(streamed.images(), workers=workers), epoch_of(streamed.local()))
    assert streamed.gets(SHARD) == 2
    assert all(streamed.gets(shard.file) == 1 for shard in streamed.shards if shard.file != SHARD)
    assert_clean(streamed)


@pytest.mark.parametrize("fault", ONCE)
def test_an_index_that_comes_wrong_once_is_fetched_again(streamed: Streamed, fault: Fault) -> None:
    if fault.status is None:
        fault = Fault(*(value and 100 if isinstance(value, int) else value for value in vars(fault).values()))
    once(streamed, "train.index.arrow", fault)
    assert streamed.images().paths == streamed.local().paths
    assert streamed.gets("train.index.arrow") == 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ONCE[1:3])
def test_a_shard_that_always_comes_wrong_is_named_with_both_hashes(
    streamed: Streamed, fault: Fault, workers: int
) -> None:
    always(streamed, SHARD, fault)
    with pytest.raises(InvalidInput) as raised:
        epoch_of(streamed.images(), workers=workers)
    # The loader's processes have ended although the exception is still referenced.
    assert not multiprocessing.active_children()
    shard = next(shard for shard in streamed.shards if shard.file == SHARD)
    found = re.search(rf"its SHA-256 is ({HASH}), not the manifest's ({HASH})", str(raised.value))
    assert found
    assert found[1] != found[2] == shard.sha256
    assert f"{streamed.uri}/{SHARD}" in str(raised.value)
    assert_is_a_sentence(raised.value)
    assert_clean(streamed)


def assert_is_a_sentence(error: BaseException) -> None:
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)
    assert "worker process" not in str(error)


def test_a_glance_at_a_damaged_image_fetches_its_shard(streamed: Streamed) -> None:
    images, local = streamed.images(), streamed.local()
    row = int((local.shard_numbers == 3).nonzero()[0][0])
    once(streamed, SHARD, Fault(flip=5))
    assert images.read_single(row).tobytes() == local.image(row).tobytes()
    assert streamed.gets(SHARD) == 2


# --- The server is slow, overloaded or down -------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_refuses_every_second_request_and_is_slow_gives_the_same_batches(
    streamed: Streamed, workers: int
) -> None:
    streamed.proxy.latency = 0.1
    streamed.proxy.fault = lambda method, path, number: (
        Fault(status=503, code="SlowDown") if number % 2 == 0 else Fault(pace=500_000.0)
    )
    assert_equal(epoch_of(streamed.images(), workers=workers), epoch_of(streamed.local()))
    assert all(streamed.gets(shard.file) == 2 for shard in streamed.shards)
    assert_clean(streamed)


def test_tries_come_with_growing_pauses(streamed: Streamed) -> None:
    moments: list[float] = []

    def note(method: str, path: str, number: int) -> Fault | None:
        moments.append(time.monotonic())
        return Fault(status=500) if number < 5 else None

    streamed.proxy.fault = note
    s3.get(f"{streamed.uri}/{FILE_NAME}")
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    assert len(pauses) == 5
    assert sum(pauses[3:]) > 3 * sum(pauses[:2])


def test_nothing_is_lost_when_the_server_is_away_for_many_tries(streamed: Streamed, tmp_path: Path) -> None:
    """A separate process reads, because forks of this process would keep the proxy's port open."""
    streamed.proxy.fault = lambda method, path, number: go_away() if path == streamed.path(SHARD) else None
    went: list[float] = []

    def go_away() -> None:
        if not went:
            went.append(time.monotonic())
            threading.Thread(target=streamed.proxy.down, args=(AWAY,)).start()
            # Meanwhile the reply is cut.
            time.sleep(0.2)

    job = job_of(streamed)
    process = job.start(tmp_path / "epochs.jsonl")
    process.join(90)
    assert process.exitcode == 0
    assert time.monotonic() - went[0] > AWAY
    assert records(tmp_path / "epochs.jsonl") == [record_of(epoch_of(streamed.local()))]
    assert_clean(streamed)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_stays_away_is_one_sentence(
    streamed: Streamed, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "RETRY_SECONDS", 1.0)
    images = streamed.images()
    streamed.proxy.down()
    began = time.monotonic()
    with pytest.raises(s3.Unreachable, match=r"^s3://\S+parquet could not be reached for 1 s \(") as raised:
        epoch_of(images, workers=workers)
    # The tries aren't repeated for each of the batch's eight images.
    assert time.monotonic() - began < 7.5
    assert_is_a_sentence(raised.value)
    assert_clean(streamed)


# --- Waiting doesn't help -------------------------------------------------------------------------


def refusal_of(uri: str, cache: Path) -> str:
    """Return the error message of opening the data set; it must come at once."""
    began = time.monotonic()
    with pytest.raises(InvalidInput) as raised:
        ShardedImages(uri, "train", Cache(cache))
    assert time.monotonic() - began < AT_ONCE
    assert_is_a_sentence(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_credentials_are_said_at_once(
    ceph: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    with Proxy(ceph.endpoint) as proxy:
        use(replace(ceph, endpoint=proxy.endpoint, **{wrong: "wrong"}), monkeypatch)
        said = refusal_of("s3://bucket/set", tmp_path)
        assert "s3://bucket/set/manifest.json is refused" in said
        assert "AWS_SECRET_ACCESS_KEY" in said
        assert proxy.requests == [("GET", "/bucket/set/manifest.json", 403)]


def test_a_forbidden_shard_is_said_at_once(streamed: Streamed) -> None:
    images = streamed.images()
    always(streamed, SHARD, Fault(status=403, code="AccessDenied"))
    began = time.monotonic()
    with pytest.raises(InvalidInput, match=rf"{SHARD} is refused \(AccessDenied\)"):
        images.encoded(int((images.shard_numbers == 3).nonzero()[0][0]))
    assert time.monotonic() - began < AT_ONCE
    assert streamed.gets(SHARD) == 1
    assert_clean(streamed)


def test_missing_credentials_are_said_at_once(
    streamed: Streamed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # This home has no .aws.
    monkeypatch.setenv("HOME", str(tmp_path))
    assert re.search(r"needs credentials .*set AWS_ACCESS_KEY_ID", refusal_of(streamed.uri, tmp_path / "cache"))
    assert streamed.proxy.requests == []


def test_a_missing_bucket_is_said_at_once(streamed: Streamed, tmp_path: Path) -> None:
    assert "there is no bucket 'no-such-bucket'" in refusal_of("s3://no-such-bucket/set", tmp_path)
    assert streamed.proxy.requests == [("GET", "/no-such-bucket/set/manifest.json", 404)]


MANIFESTS: list[tuple[str, Callable[[bytes], bytes | None], str]] = [
    ("missing", lambda content: None, "is not a packed data set: it has no manifest.json"),
    ("newer", lambda content: version(content, FORMAT_VERSION + 1), "has format version 3; this code reads 2; update"),
    ("older", lambda content: version(content, 1), "has format version 1; this code reads 2; pack the data set again"),
    ("not JSON", lambda content: b"<html>hello</html>", "is not a valid manifest"),
    ("cut short", lambda content: content[: len(content) // 2], "is not a valid manifest"),
    ("not text", lambda content: b"\xff\xfe\x00", "is not a valid manifest"),
    ("a list", lambda content: b"[1]", "is not a valid manifest"),
    ("a version in words", lambda content: version(content, '"two"'), "manifest"),
]


def version(content: bytes, number: int | str) -> bytes:
    return content.replace(b'"format_version": 2', f'"format_version": {number}'.encode())


@pytest.mark.parametrize(("spoil", "said"), [case[1:] for case in MANIFESTS], ids=[case[0] for case in MANIFESTS])
def test_a_manifest_that_cannot_be_used_is_one_sentence(
    streamed: Streamed, spoil: Callable[[bytes], bytes | None], said: str
) -> None:
    content = (streamed.folder / FILE_NAME).read_bytes()
    with streamed.manifest(spoil(content)):
        assert said in refusal_of(streamed.uri, streamed.cache_folder)
    assert streamed.gets("") == streamed.gets(FILE_NAME) == 1
