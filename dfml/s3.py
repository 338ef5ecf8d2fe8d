"""Objects on S3 or an S3-compatible server, through boto3.

Credentials, region and endpoint come from the usual AWS_* variables and files (AWS_ENDPOINT_URL for other servers). A server that
is overloaded or away is asked again, with growing pauses, for `PATIENCE` seconds; what can't get better by waiting (wrong
credentials, no such bucket) is said at once.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from dfml.errors import InvalidInput

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

PREFIX = "s3://"
PATIENCE = 120.0  # seconds that a server may be away
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds
NOTICE_AFTER = 3  # failed tries, before anything is said of them
TIMEOUT = 20.0  # seconds without a byte
CHUNK = 2**20  # bytes read at once

ABSENT = {"NoSuchKey", "404", "NotFound"}
DENIED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AccountProblem",
    "RequestTimeTooSkewed",
}
ELSEWHERE = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}

T = TypeVar("T")


_received = multiprocessing.Value("q", 0)  # in memory that forked processes share, such as a loader's


def received() -> int:
    """Bytes of objects that this process and those forked from it have read, those of a try that failed included."""
    return _received.value


def _count(size: int) -> None:
    with _received.get_lock():
        _received.value += size


class Unreachable(OSError):
    """The server was away, or refused, for all of `PATIENCE`."""


def get(place: str, offset: int = 0, size: int | None = None) -> bytes:
    """The content of an object, or `size` bytes of it from `offset`.

    Raises:
        FileNotFoundError: there is none.
        InvalidInput: credentials, bucket or region are wrong.
        Unreachable: the server doesn't answer.
    """
    bucket, key = _bucket_and_key(place)
    part = {} if size is None else {"Range": f"bytes={offset}-{offset + size - 1}"}

    def read() -> bytes:
        response = _client().get_object(Bucket=bucket, Key=key, **part)
        content: bytes = response["Body"].read()
        _count(len(content))
        return content

    return _patiently(read, place)


def download(place: str, to: BinaryIO) -> str:
    """Write an object's content to an open file, from its beginning; returns its SHA-256 in hexadecimal. Raises as `get`."""
    bucket, key = _bucket_and_key(place)

    def read() -> str:
        to.seek(0)
        digest = hashlib.sha256()
        for chunk in _client().get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(CHUNK):
            _count(len(chunk))
            to.write(chunk)
            digest.update(chunk)
        to.truncate()  # at the end: a file that was made as large as the object keeps its room until then
        return digest.hexdigest()

    return _patiently(read, place)


def put(place: str, content: bytes) -> None:
    """Write an object; it appears when it is whole. Raises as `get`."""
    bucket, key = _bucket_and_key(place)
    _patiently(lambda: _client().put_object(Bucket=bucket, Key=key, Body=content), place)


def upload(place: str, file: Path) -> None:
    """Write a local file to an object, a large one in parts; it appears when it is whole. Raises as `get`."""
    bucket, key = _bucket_and_key(place)

    def send() -> None:
        with file.open("rb") as stream:
            _client().upload_fileobj(stream, bucket, key)

    _patiently(send, place)


def delete(place: str) -> None:
    """Remove an object, or do nothing where there is none. Raises as `get`."""
    bucket, key = _bucket_and_key(place)
    _patiently(lambda: _client().delete_object(Bucket=bucket, Key=key), place)


def exists(place: str) -> bool:
    """Whether there is such an object; no where there isn't even the bucket. Raises as `get`."""
    bucket, key = _bucket_and_key(place)
    try:
        _patiently(lambda: _client().head_object(Bucket=bucket, Key=key), place)
    except FileNotFoundError:
        return False
    return True


def folders(place: str) -> list[str]:
    """Return the names that follow `place` and a slash in keys and end with a slash: its folders. Raises as `get`."""
    return sorted({key.split("/", 1)[0] for key in _keys(place) if "/" in key})


def delete_folder(place: str) -> None:
    """Remove the objects whose keys begin with `place` and a slash. Raises as `get`."""
    for key in _keys(place):
        delete(f"{place}/{key}")


def _keys(place: str) -> list[str]:
    """Return what follows `place` and a slash in the keys that begin so."""
    bucket, key = _bucket_and_key(place)
    prefix = f"{key.rstrip('/')}/" if key else ""

    def listed() -> list[str]:
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"].removeprefix(prefix) for page in pages for found in page.get("Contents", [])]

    return _patiently(listed, place)


def names_object(place: str) -> bool:
    """Whether a URI names an object: a bucket alone doesn't, nor what ends in "/", as a folder's does.

    Raises:
        InvalidInput: it names no bucket either.
    """
    _, key = _bucket_and_key(place)
    return bool(key) and not key.endswith("/")


def _bucket_and_key(place: str) -> tuple[str, str]:
    bucket, _, key = place.removeprefix(PREFIX).partition("/")
    if not bucket:
        raise InvalidInput(f"{place!r} names no bucket: give s3://bucket/folder")
    return bucket, key


def _client() -> Any:
    """This process's client: of one made before a fork, another thread may have held a lock."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client_of(os.getpid(), settings)


@functools.lru_cache(maxsize=1)
def _client_of(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    import boto3  # here, since it takes 0.3 s and most commands need no S3
    import botocore.session
    from botocore.config import Config

    # A session of our own: boto3's keeps the first credentials, and asks an instance for its own only once, for a second.
    session = botocore.session.get_session()
    session.set_config_variable("metadata_service_num_attempts", 3)
    session.set_config_variable("metadata_service_timeout", 2)
    return boto3.Session(botocore_session=session).client(
        "s3",
        config=Config(
            retries={"total_max_attempts": 1},  # `_patiently` retries, reading a body included
            connect_timeout=TIMEOUT / 2,
            read_timeout=TIMEOUT,
            max_pool_connections=32,
            # Servers other than AWS's don't all know the newer checksums; ours is SHA-256.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _patiently(act: Callable[[], T], place: str) -> T:
    """Do `act`, again and again while the server is away."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    began, pause, tries = time.monotonic(), FIRST_PAUSE, 0
    while True:
        try:
            return act()
        except ClientError as error:
            _raise_if_final(error, place)
            reason: Exception = error
        except (BotoCoreError, HTTPError) as error:
            if isinstance(error, BotoCoreError):
                _raise_if_ours(error, place)
            reason = error
        tries += 1
        if time.monotonic() - began + pause > PATIENCE:
            raise Unreachable(f"{place} could not be reached for {PATIENCE:.0f} s ({_line(reason)})") from reason
        if tries == NOTICE_AFTER:
            print(f"{place}: {_line(reason)}; trying again for up to {PATIENCE:.0f} s", file=sys.stderr, flush=True)
        time.sleep(pause * random.uniform(0.5, 1.0))  # not all workers at the same moment
        pause = min(2 * pause, LONGEST_PAUSE)


def _raise_if_final(error: ClientError, place: str) -> None:
    """Raise for an answer that asking again won't change."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    bucket, _ = _bucket_and_key(place)
    if code in ABSENT:
        raise FileNotFoundError(place) from error
    if code == "NoSuchBucket":
        raise InvalidInput(
            f"there is no bucket {bucket!r} ({place}): make it, or name another; AWS_ENDPOINT_URL says which server is asked"
        ) from error
    if code in DENIED:
        raise InvalidInput(
            f"{place} is refused ({code}): see that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) may use it"
        ) from error
    if code in ELSEWHERE:
        raise InvalidInput(f"bucket {bucket!r} lies in another region ({code}): set AWS_REGION to its own") from error
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if 400 <= status < 500 and status not in (408, 429):
        raise InvalidInput(f"{place} can't be used ({_line(error)}): mend the URI or the server's settings") from error


def _raise_if_ours(error: BotoCoreError, place: str) -> None:
    """Raise for what fails before any server is asked."""
    from botocore import exceptions

    if isinstance(
        error,
        exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.ProfileNotFound,
    ):
        raise InvalidInput(
            f"{place} needs credentials ({_line(error)}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    # An instance's credentials are renewed every few hours, which may fail for a moment.
    passing = (
        exceptions.ConnectionError
        | exceptions.HTTPClientError
        | exceptions.IncompleteReadError
        | exceptions.CredentialRetrievalError
    )
    if not isinstance(error, passing):
        raise InvalidInput(f"{place} can't be used ({_line(error)}): mend the URI or the AWS_* settings") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
