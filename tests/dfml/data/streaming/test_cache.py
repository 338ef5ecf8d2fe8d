"""The node's cache, with files from a real server."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfml import storage
from dfml.data.format.manifest import File
from dfml.data.streaming import cache as cache_module
from dfml.data.streaming.cache import Cache, default_folder
from dfml.errors import InvalidInput
from tests.s3.locations import new_bucket, use
from tests.s3.servers import Server

KILOBYTE = 1000


@pytest.fixture
def uri(moto: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    use(moto, monkeypatch)
    return f"s3://{new_bucket(moto)}"


@pytest.fixture
def file_of(uri: str) -> Callable[[str], File]:
    """Return a function that writes 1,000 bytes to the URI; they depend on the name's last part."""

    def make(name: str) -> File:
        content = name.rpartition("/")[2].encode().ljust(KILOBYTE, b".")
        storage.write(storage.join(uri, name), content)
        return File(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    return make


@pytest.fixture
def lock_elsewhere(tmp_path: Path) -> Iterator[Callable[[File], None]]:
    """Return a function that has another process hold a file's lock until the test ends."""
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    holders = []

    def hold(file: File) -> None:
        locked = context.Event()
        (tmp_path / "cache").mkdir(exist_ok=True)
        holder = context.Process(target=_hold, args=(tmp_path / "cache" / f"{file.sha256}.lock", locked, ended))
        holder.start()
        holders.append(holder)
        assert locked.wait(30)

    yield hold
    ended.set()
    for holder in holders:
        holder.join()


def _hold(path: Path, locked: object, ended: object) -> None:
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        locked.set()  # type: ignore[attr-defined]
        ended.wait()  # type: ignore[attr-defined]


def names(folder: Path) -> set[str]:
    """Return the names of the files in the folder, except locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def name_of(file: File) -> str:
    return f"{file.sha256}{Path(file.file).suffix}"


MakeFile = Callable[[str], File]


def test_a_file_is_fetched_once_and_has_its_hash_for_a_name(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    cache, file = Cache(tmp_path / "cache"), file_of("a.parquet")
    assert cache.find(file) is None
    found = cache.path(file, storage.join(uri, file.file))
    assert found == tmp_path / "cache" / f"{file.sha256}.parquet" == cache.find(file)
    assert hashlib.sha256(found.read_bytes()).hexdigest() == file.sha256
    storage.delete(storage.join(uri, file.file))
    assert cache.path(file, storage.join(uri, file.file)) == found  # nobody is asked for it again
    assert names(tmp_path / "cache") == {name_of(file)}


def test_equal_files_of_two_data_sets_are_one(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    one = file_of("a.parquet")
    other = one.model_copy(update={"file": "train-00007.parquet"})  # as another data set names it
    cache = Cache(tmp_path / "cache")
    cache.path(one, storage.join(uri, one.file))
    assert cache.path(other, "s3://no-such-bucket/train-00007.parquet").read_bytes().startswith(b"a.parquet")
    assert len(names(tmp_path / "cache")) == 1


def test_what_was_not_used_longest_goes_first(
    uri: str, file_of: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "TOUCH_SECONDS", 0.0)
    a, b, c, d = (file_of(f"{name}.parquet") for name in "abcd")
    cache = Cache(tmp_path / "cache", size=3 * KILOBYTE)
    for file in (a, b, c):
        cache.path(file, storage.join(uri, file.file))
        time.sleep(0.02)  # the clock of some file systems is that coarse
    cache.find(a)  # used again, so that `b` is the oldest
    cache.path(d, storage.join(uri, d.file))
    assert names(tmp_path / "cache") == {name_of(file) for file in (a, c, d)}


def test_a_use_by_any_process_counts(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    a, b, c = (file_of(f"{name}.parquet") for name in "abc")
    cache = Cache(tmp_path / "cache", size=2 * KILOBYTE)
    for file in (a, b):
        cache.path(file, storage.join(uri, file.file))
        os.utime(tmp_path / "cache" / name_of(file), (0, 1000 if file is a else 2000))
    Cache(tmp_path / "cache").find(a)  # as another process would
    cache.path(c, storage.join(uri, c.file))
    assert names(tmp_path / "cache") == {name_of(a), name_of(c)}


def test_files_of_the_user_in_the_folder_are_left_alone(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    (tmp_path / "cache" / "folder").mkdir(parents=True)
    (tmp_path / "cache" / "thesis.tex").write_bytes(bytes(10 * KILOBYTE))
    a, b = file_of("a.parquet"), file_of("b.parquet")
    cache = Cache(tmp_path / "cache", size=KILOBYTE)
    for file in (a, b):
        cache.path(file, storage.join(uri, file.file))
    assert names(tmp_path / "cache") == {name_of(b), "folder", "thesis.tex"}


def test_a_file_larger_than_the_limit_is_refused(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    file = file_of("a.parquet")
    with pytest.raises(InvalidInput, match=r"--cache-size 999 can't hold a\.parquet of 1000 bytes; make it larger"):
        Cache(tmp_path / "cache", size=KILOBYTE - 1).path(file, storage.join(uri, file.file))
    assert names(tmp_path / "cache") == set()


def test_many_at_once_keep_the_limit(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    """Room is reserved before a transfer begins: of two that need the same room, one waits."""
    files = [file_of(f"{name}.parquet") for name in "abcdefghijkl"]
    cache, largest = Cache(tmp_path / "cache", size=3 * KILOBYTE), 0
    threads = [threading.Thread(target=cache.path, args=(file, storage.join(uri, file.file))) for file in files]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        largest = max(largest, size_of(tmp_path / "cache"))
    assert 0 < largest <= 3 * KILOBYTE
    assert len(names(tmp_path / "cache")) == 3


def size_of(folder: Path) -> int:
    """Return the bytes of the folder's files, counting a file renamed meanwhile only once."""
    sizes = {}
    for path in list(folder.glob("*.parquet*")):
        try:
            sizes[path.name.removesuffix(".partial")] = path.stat().st_size
        except FileNotFoundError:
            continue
    return sum(sizes.values())


def test_fetching_ahead_leaves_to_others_what_they_fetch(
    uri: str, file_of: MakeFile, tmp_path: Path, lock_elsewhere: Callable[[File], None]
) -> None:
    a, b = file_of("a.parquet"), file_of("b.parquet")
    lock_elsewhere(a)
    cache = Cache(tmp_path / "cache")
    began = time.monotonic()
    cache.fetch_unless_others_do(a, storage.join(uri, a.file))
    assert time.monotonic() - began < 0.5
    cache.fetch_unless_others_do(b, storage.join(uri, b.file))
    assert names(tmp_path / "cache") == {name_of(b)}


def test_who_needs_a_file_waits_for_the_one_that_fetches_it(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    file, cache = file_of("a.parquet"), Cache(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache" / f"{file.sha256}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=cache.path, args=(file, "s3://no-such-bucket/a.parquet"))
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
        (tmp_path / "cache" / name_of(file)).write_bytes(storage.read(storage.join(uri, file.file)))
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_lock_ends_though_a_process_was_forked_meanwhile(tmp_path: Path, file_of: MakeFile, uri: str) -> None:
    """DataLoader workers are forked: each inherits its parent's open files."""
    file, cache = file_of("a.parquet"), Cache(tmp_path / "cache")
    with cache.lock(file.sha256):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        began = time.monotonic()
        cache.path(file, storage.join(uri, file.file))
        assert time.monotonic() - began < 5
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_what_a_killed_process_had_begun_goes(
    uri: str, file_of: MakeFile, tmp_path: Path, lock_elsewhere: Callable[[File], None]
) -> None:
    begun, fetched_by_another, other = (file_of(f"{name}.parquet") for name in "abc")
    (tmp_path / "cache").mkdir()
    for file in (begun, fetched_by_another):
        (tmp_path / "cache" / f"{name_of(file)}.partial").write_bytes(bytes(700))
    lock_elsewhere(fetched_by_another)
    Cache(tmp_path / "cache").require_room([other])
    assert names(tmp_path / "cache") == {f"{name_of(fetched_by_another)}.partial"}


def test_a_file_that_is_not_there_leaves_nothing(uri: str, file_of: MakeFile, tmp_path: Path) -> None:
    file = file_of("a.parquet")
    storage.delete(storage.join(uri, file.file))
    with pytest.raises(InvalidInput, match=r"a\.parquet of the manifest is missing"):
        Cache(tmp_path / "cache").path(file, storage.join(uri, file.file))
    assert names(tmp_path / "cache") == set()


def test_too_little_room_is_said_before_any_work(file_of: MakeFile, tmp_path: Path) -> None:
    huge = file_of("a.parquet").model_copy(update={"bytes": 2**60})
    with pytest.raises(InvalidInput, match=r"would need 1\.2 EB more, its disk has .*--cache-dir.*--cache-size"):
        Cache(tmp_path / "cache").require_room([huge])
    Cache(tmp_path / "cache", size=KILOBYTE).require_room([huge])  # keeps a part only


def test_what_is_there_and_what_is_on_its_way_needs_no_room(
    uri: str,
    file_of: MakeFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lock_elsewhere: Callable[[File], None],
) -> None:
    here, begun = file_of("a.parquet"), file_of("b.parquet").model_copy(update={"bytes": 40_000})
    cache = Cache(tmp_path / "cache")
    cache.path(here, storage.join(uri, here.file))
    lock_elsewhere(begun)
    (tmp_path / "cache" / f"{name_of(begun)}.partial").write_bytes(bytes(32_768))
    usage = cache_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: usage._replace(free=10_000))
    cache.require_room([here, begun])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, file_of: MakeFile) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"the cache .*file/below can't be created .*--cache-dir"):
        Cache(tmp_path / "file" / "below").require_room([file_of("a.parquet")])


def test_the_folder_is_the_environments_or_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("DFML_CACHE", raising=False)
    assert default_folder() == Path("/home/someone/.cache/dfml")
    monkeypatch.setenv("DFML_CACHE", str(tmp_path))
    assert Cache().folder == default_folder() == tmp_path
