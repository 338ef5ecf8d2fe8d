"""One suite for every kind of storage: a local folder, and S3 servers over HTTP (`place` in tests/s3/places.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml import storage
from dfml.errors import InvalidInput
from tests.s3.places import CEPH

on_s3 = pytest.mark.parametrize("place", ["moto", CEPH], indirect=True)


def test_what_is_written_is_read(place: str) -> None:
    storage.write(storage.join(place, "a", "b.bin"), b"\x00content")
    assert storage.read(storage.join(place, "a", "b.bin")) == b"\x00content"


def test_a_part_of_a_file_is_read(place: str) -> None:
    storage.write(storage.join(place, "a"), bytes(range(100)))
    assert storage.read(storage.join(place, "a"), offset=10, size=5) == bytes(range(10, 15))
    assert storage.read(storage.join(place, "a"), offset=90, size=50) == bytes(range(90, 100))


def test_what_is_deleted_is_gone_and_may_be_deleted_again(place: str) -> None:
    storage.write(storage.join(place, "a"), b"1")
    for _ in range(2):
        storage.delete(storage.join(place, "a"))
        assert not storage.exists(storage.join(place, "a"))


def test_an_empty_file_is_a_file(place: str) -> None:
    storage.write(storage.join(place, "empty"), b"")
    assert storage.exists(storage.join(place, "empty"))
    assert storage.read(storage.join(place, "empty")) == b""


def test_writing_again_replaces(place: str) -> None:
    storage.write(storage.join(place, "a"), b"first, longer")
    storage.write(storage.join(place, "a"), b"second")
    assert storage.read(storage.join(place, "a")) == b"second"


def test_a_file_of_some_megabytes_is_kept_whole(place: str) -> None:
    content = bytes(range(256)) * 50_000  # 12.8 MB: more than one part of an S3 upload
    storage.write(storage.join(place, "large"), content)
    assert storage.read(storage.join(place, "large")) == content


def test_only_what_was_written_exists(place: str) -> None:
    storage.write(storage.join(place, "a", "b"), b"x")
    assert storage.exists(storage.join(place, "a", "b"))
    assert not storage.exists(storage.join(place, "a", "c"))
    assert not storage.exists(storage.join(place, "elsewhere"))


def test_reading_what_is_not_there_says_so(place: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(place, "nothing"))


def test_upload_keeps_the_tree(place: str, tmp_path: Path) -> None:
    (tmp_path / "from" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "from" / "top.txt").write_bytes(b"top")
    (tmp_path / "from" / "deep" / "er" / "leaf").write_bytes(b"leaf")
    storage.upload(tmp_path / "from", place)
    assert storage.read(storage.join(place, "top.txt")) == b"top"
    assert storage.read(storage.join(place, "deep", "er", "leaf")) == b"leaf"


def test_local_copy_has_the_named_files(place: str) -> None:
    storage.write(storage.join(place, "a"), b"1")
    storage.write(storage.join(place, "b"), b"2")
    with storage.local_copy(place, ("a", "b")) as directory:
        assert ((directory / "a").read_bytes(), (directory / "b").read_bytes()) == (b"1", b"2")


def test_local_copy_names_what_is_missing(place: str) -> None:
    storage.write(storage.join(place, "a"), b"1")
    with (
        pytest.raises(InvalidInput, match=r"has no b: name the best/ folder"),
        storage.local_copy(place, ("a", "b")),
    ):
        pass


def test_a_place_that_can_be_written_stays_as_it_was(place: str, tmp_path: Path) -> None:
    storage.write(storage.join(place, "a"), b"1")
    storage.check_writable(place)
    assert not storage.exists(storage.join(place, ".write-probe"))
    assert storage.read(storage.join(place, "a")) == b"1"


def test_a_folder_that_could_be_written_is_not_made(tmp_path: Path) -> None:
    storage.check_writable(str(tmp_path / "new" / "below"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_may_end_with_a_slash(place: str) -> None:
    storage.write(storage.join(place + "/", "a"), b"1")
    assert storage.read(storage.join(place, "a")) == b"1"


def test_nothing_partial_is_left(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "a"), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_local_copy_of_a_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with storage.local_copy(tmp_path, ("a",)) as directory:
        assert directory == tmp_path


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"file/below can't be written .*give a folder or an s3:// URI"):
        storage.check_writable(str(tmp_path / "file" / "below"))


@on_s3
def test_a_bucket_that_does_not_exist_is_refused(place: str) -> None:
    with pytest.raises(InvalidInput, match=r"there is no bucket 'no-such-bucket' \(s3://no-such-bucket/x"):
        storage.check_writable("s3://no-such-bucket/x")


@on_s3
def test_a_bucket_that_is_not_there_holds_nothing(place: str) -> None:
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


def test_folders_are_listed_and_deleted_with_all_that_is_in_them_and_nothing_beside(place: str) -> None:
    assert storage.folders(place) == []
    for file in ("a/1", "a/b/2", "ab/3", "a b#%/4", "5"):
        storage.write(storage.join(place, file), b"content")
    assert storage.folders(place) == ["a", "a b#%", "ab"]
    storage.delete_folder(storage.join(place, "a"))
    assert storage.folders(place) == ["a b#%", "ab"]
    assert storage.exists(storage.join(place, "5"))
