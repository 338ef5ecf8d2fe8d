"""URIs of sweeps, which boto3 (used by this code) and pyarrow (used by Ray) must read alike."""

from __future__ import annotations

import string

import pytest
from pyarrow import fs

from dfml.errors import InvalidInput
from orchestration.sweep_folder.layout import check_uri

# Characters of a name: ASCII and some others.
CHARACTERS = [c for c in (*map(chr, range(1, 128)), "ö", "€", "\xa0", "\udc80") if c != "/"]


@pytest.fixture
def _a_server_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a region and an endpoint: without them, pyarrow asks AWS for the bucket's region."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "unused")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def read_by_pyarrow(uri: str) -> str | None:
    """Return the bucket and key that pyarrow reads from a URI; None if it can't."""
    try:
        return "s3://" + fs.FileSystem.from_uri(uri)[1]
    except (ValueError, OSError):
        return None


def is_taken(uri: str) -> bool:
    try:
        check_uri(uri)
    except InvalidInput as error:
        said = str(error)
    else:
        return True
    assert "\n" not in said
    assert repr(uri) in said
    return False


@pytest.mark.usefixtures("_a_server_of_nobody")
@pytest.mark.parametrize("where", ["s3://bucket/a{}b", "s3://bucket/a{}b/sweep", "s3://bucket/sweeps/{}"])
def test_a_place_is_taken_if_and_only_if_pyarrow_reads_it_as_it_stands(where: str) -> None:
    taken = [c for c in CHARACTERS if is_taken(where.format(c))]
    alike = [c for c in CHARACTERS if read_by_pyarrow(where.format(c)) == where.format(c)]
    assert taken == [c for c in alike if where.format(c) != "s3://bucket/sweeps/."]
    assert set(string.ascii_letters + string.digits + "-_.~!$&'()*+,;=:@") - {"."} <= set(taken)


@pytest.mark.usefixtures("_a_server_of_nobody")
@pytest.mark.parametrize(
    "uri", ["s3://key@bucket/a", "s3://bucket:80/a", "s3://bucket/a%20b", "s3://bucket/a%b", "s3://bucket/a#b"]
)
def test_what_pyarrow_reads_as_another_place_is_refused(uri: str) -> None:
    assert read_by_pyarrow(uri) != uri
    assert not is_taken(uri)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///a", "s3://bucket//a", "s3://bucket/./a", "s3://bucket/../a", "s3://bucket/.."]
)
def test_a_place_without_a_bucket_or_with_a_step_that_leads_elsewhere_is_refused(uri: str) -> None:
    assert not is_taken(uri)


@pytest.mark.parametrize(
    "uri", ["/home/me/my sweeps/#1", "sweeps/größe%20", "s3://bucket", "s3://bucket/", "s3://my.bucket-1/a/b/"]
)
def test_local_folders_may_have_any_name(uri: str) -> None:
    assert is_taken(uri)
