"""One suite for each kind of storage: a folder, and S3 servers over HTTP (`uri` in tests/s3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml import storage
from dfml.errors import InvalidInput
from tests.s3.locations import CEPH

on_s3 = pytest.mark.parametrize("uri", ["moto", CEPH], indirect=True)


def test_what_is_written_is_read(uri: str) -> None:
    storage.write(storage.join(uri, "a", "b.bin"), b"\x00content")
    assert storage.read(storage.join(uri, "a", "b.bin")) == b"\x00content"


def test_a_part_of_a_file_is_read(uri: str) -> None:
    storage.write(storage.join(uri, "a"), bytes(range(100)))
    assert storage.read(storage.join(uri, "a"), offset=10, size=5) == bytes(range(10, 15))
    assert storage.read(storage.join(uri, "a"), offset=90, size=50) == bytes(range(90, 100))


def test_what_is_deleted_is_gone_and_may_be_deleted_again(uri: str) -> None:
    storage.write(storage.join(uri, "a"), b"1")
    for _ in range(2):
        storage.delete(storage.join(uri, "a"))
        assert not storage.exists(storage.join(uri, "a"))


def test_an_empty_file_is_a_file(uri: str) -> None:
    storage.write(storage.join(uri, "empty"), b"")
    assert storage.exists(storage.join(uri, "empty"))
    assert storage.read(storage.join(uri, "empty")) == b""


def test_writing_again_replaces(uri: str) -> None:
    storage.write(storage.join(uri, "a"), b"first, longer")
    storage.write(storage.join(uri, "a"), b"second")
    assert storage.read(storage.join(uri, "a")) == b"second"


def test_a_file_of_some_megabytes_is_kept_whole(uri: str) -> None:
    content = bytes(range(256)) * 50_000  # 12.8 MB: more than one part of an S3 upload
    storage.write(storage.join(uri, "large"), content)
    assert storage.read(storage.join(uri, "large")) == content


def test_only_what_was_written_exists(uri: str) -> None:
    storage.write(storage.join(uri, "a", "b"), b"x")
    assert storage.exists(storage.join(uri, "a", "b"))
    assert not storage.exists(storage.join(uri, "a", "c"))
    assert not storage.exists(storage.join(uri, "elsewhere"))


def test_reading_what_is_not_there_says_so(uri: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(uri, "nothing"))


def test_upload_keeps_the_tree(uri: str, tmp_path: Path) -> None:
    (tmp_path / "from" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "from" / "top.txt").write_bytes(b"top")
    (tmp_path / "from" / "deep" / "er" / "leaf").write_bytes(b"leaf")
    storage.upload(tmp_path / "from", uri)
    assert storage.read(storage.join(uri, "top.txt")) == b"top"
    assert storage.read(storage.join(uri, "deep", "er", "leaf")) == b"leaf"


def test_local_copy_has_the_named_files(uri: str) -> None:
    storage.write(storage.join(uri, "a"), b"1")
    storage.write(storage.join(uri, "b"), b"2")
    with storage.local_copy(uri, ("a", "b")) as directory:
        assert ((directory / "a").read_bytes(), (directory / "b").read_bytes()) == (b"1", b"2")


def test_local_copy_names_what_is_missing(uri: str) -> None:
    storage.write(storage.join(uri, "a"), b"1")
    with (
        pytest.raises(InvalidInput, match=r"has no b; name the best/ folder"),
        storage.local_copy(uri, ("a", "b")),
    ):
        pass


def test_a_place_that_can_be_written_stays_as_it_was(uri: str, tmp_path: Path) -> None:
    storage.write(storage.join(uri, "a"), b"1")
    storage.check_writable(uri)
    assert not storage.exists(storage.join(uri, ".write-probe"))
    assert storage.read(storage.join(uri, "a")) == b"1"


def test_a_folder_that_could_be_written_is_not_made(tmp_path: Path) -> None:
    storage.check_writable(str(tmp_path / "new" / "below"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_may_end_with_a_slash(uri: str) -> None:
    storage.write(storage.join(uri + "/", "a"), b"1")
    assert storage.read(storage.join(uri, "a")) == b"1"


def test_nothing_partial_is_left(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "a"), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_local_copy_of_a_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with storage.local_copy(tmp_path, ("a",)) as directory:
        assert directory == tmp_path


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"file/below can't be written .*give a writable folder or s3:// URI"):
        storage.check_writable(str(tmp_path / "file" / "below"))


@on_s3
def test_a_bucket_that_does_not_exist_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match=r"there is no bucket 'no-such-bucket' \(s3://no-such-bucket/x"):
        storage.check_writable("s3://no-such-bucket/x")


@on_s3
def test_a_bucket_that_is_not_there_holds_nothing(uri: str) -> None:
    assert not storage.exists("s3://no-such-bucket/x")


@pytest.mark.parametrize("call", [storage.exists, storage.read, storage.check_writable])
def test_other_kinds_of_storage_are_refused(call: object) -> None:
    with pytest.raises(InvalidInput, match=r"'gs://bucket/.*isn't supported"):
        call("gs://bucket/x")  # type: ignore[operator]


def test_a_relative_folder_is_made_absolute_and_a_uri_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.absolute("runs/../a") == str(tmp_path / "a")
    assert storage.absolute("~/a") == "/home/someone/a"
    assert storage.absolute("s3://bucket/a") == "s3://bucket/a"


def test_folders_are_listed_and_deleted_with_all_that_is_in_them_and_nothing_beside(uri: str) -> None:
    assert storage.folders(uri) == []
    for file in ("a/1", "a/b/2", "ab/3", "a b#%/4", "5"):
        storage.write(storage.join(uri, file), b"content")
    assert storage.folders(uri) == ["a", "a b#%", "ab"]
    storage.delete_folder(storage.join(uri, "a"))
    assert storage.folders(uri) == ["a b#%", "ab"]
    assert storage.exists(storage.join(uri, "5"))
