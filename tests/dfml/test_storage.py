"""One suite for every kind of storage: a local folder, and an S3 server over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from dfml import storage
from dfml.errors import InvalidInput


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place to write to."""
    if request.param == "folder":
        return str(tmp_path / "place")
    endpoint = request.getfixturevalue("s3_endpoint")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = tmp_path.name.replace("_", "-").lower()
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/place"


def test_what_is_written_is_read(place: str) -> None:
    storage.write(storage.join(place, "a", "b.bin"), b"\x00content")
    assert storage.read(storage.join(place, "a", "b.bin")) == b"\x00content"


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


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_bucket_that_does_not_exist_is_refused(place: str) -> None:
    with pytest.raises(InvalidInput, match=r"there is no bucket 'no-such-bucket' \(s3://no-such-bucket/x"):
        storage.check_writable("s3://no-such-bucket/x")


@pytest.mark.parametrize("place", ["s3"], indirect=True)
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
