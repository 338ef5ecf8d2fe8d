"""Objects on S3 or an S3-compatible server, through boto3.

Credentials, region and endpoint come from the usual AWS_* variables and files (AWS_ENDPOINT_URL for
other servers). Requests to an overloaded or unreachable server are repeated, with growing pauses,
for `RETRY_SECONDS` seconds; permanent errors (wrong credentials, no such bucket) fail at once.
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

from dfml.errors import InvalidInput, one_line

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

PREFIX = "s3://"
# How long a server may be unreachable.
RETRY_SECONDS = 120.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds
# Failed tries before a notice is printed.
NOTICE_AFTER = 3
READ_TIMEOUT_SECONDS = 20.0
CHUNK_BYTES = 2**20

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


# In memory that forked processes, such as DataLoader workers, share.
_received = multiprocessing.Value("q", 0)


def received() -> int:
    """Return the bytes read by this process and its forks, including those of failed tries."""
    return _received.value


def _count(size: int) -> None:
    with _received.get_lock():
        _received.value += size


class Unreachable(OSError):
    """The server was unreachable or refused requests for all of `RETRY_SECONDS`."""


def get(uri: str, offset: int = 0, size: int | None = None) -> bytes:
    """Return the content of an object, or `size` bytes of it from `offset`.

    Raises:
        FileNotFoundError: there is no such object.
        InvalidInput: credentials, bucket or region are wrong.
        Unreachable: the server doesn't answer.
    """
    bucket, key = _bucket_and_key(uri)
    part = {} if size is None else {"Range": f"bytes={offset}-{offset + size - 1}"}

    def read() -> bytes:
        response = _client().get_object(Bucket=bucket, Key=key, **part)
        content: bytes = response["Body"].read()
        _count(len(content))
        return content

    return _patiently(read, uri)


def download(uri: str, to: BinaryIO) -> str:
    """Replace an open file's content by an object's and return its SHA-256. Raises as `get`."""
    bucket, key = _bucket_and_key(uri)

    def read() -> str:
        to.seek(0)
        digest = hashlib.sha256()
        for chunk in _client().get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(CHUNK_BYTES):
            _count(len(chunk))
            to.write(chunk)
            digest.update(chunk)
        # Truncated only now: a file that reserves the object's size keeps its room until then.
        to.truncate()
        return digest.hexdigest()

    return _patiently(read, uri)


def put(uri: str, content: bytes) -> None:
    """Write an object atomically. Raises as `get`."""
    bucket, key = _bucket_and_key(uri)
    _patiently(lambda: _client().put_object(Bucket=bucket, Key=key, Body=content), uri)


def upload(uri: str, file: Path) -> None:
    """Write a local file to an object atomically, in parts if it is large. Raises as `get`."""
    bucket, key = _bucket_and_key(uri)

    def send() -> None:
        with file.open("rb") as stream:
            _client().upload_fileobj(stream, bucket, key)

    _patiently(send, uri)


def delete(uri: str) -> None:
    """Remove an object if it exists. Raises as `get`."""
    bucket, key = _bucket_and_key(uri)
    _patiently(lambda: _client().delete_object(Bucket=bucket, Key=key), uri)


def exists(uri: str) -> bool:
    """Return whether an object exists; False if the bucket doesn't exist. Raises as `get`."""
    bucket, key = _bucket_and_key(uri)
    try:
        _patiently(lambda: _client().head_object(Bucket=bucket, Key=key), uri)
    except FileNotFoundError:
        return False
    return True


def folders(uri: str) -> list[str]:
    """Return the names of the folders (common prefixes) below `uri`, sorted. Raises as `get`."""
    return sorted({key.split("/", 1)[0] for key in _keys(uri) if "/" in key})


def delete_folder(uri: str) -> None:
    """Remove the objects whose keys begin with `uri` and a slash. Raises as `get`."""
    for key in _keys(uri):
        delete(f"{uri}/{key}")


def _keys(uri: str) -> list[str]:
    """Return the keys below `uri`, relative to it."""
    bucket, key = _bucket_and_key(uri)
    prefix = f"{key.rstrip('/')}/" if key else ""

    def listed() -> list[str]:
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"].removeprefix(prefix) for page in pages for found in page.get("Contents", [])]

    return _patiently(listed, uri)


def names_object(uri: str) -> bool:
    """Return whether a URI names an object: not just a bucket, nor a key that ends in "/".

    Raises:
        InvalidInput: the URI doesn't even name a bucket.
    """
    _, key = _bucket_and_key(uri)
    return bool(key) and not key.endswith("/")


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(PREFIX).partition("/")
    if not bucket:
        raise InvalidInput(f"{uri!r} names no bucket; give s3://bucket/folder")
    return bucket, key


def _client() -> Any:
    """Return this process's client: one inherited through fork() may hold a lock."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client_of(os.getpid(), settings)


@functools.lru_cache(maxsize=1)
def _client_of(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    # Imported here because it takes 0.3 s and most commands don't need S3.
    import boto3
    import botocore.session
    from botocore.config import Config

    # A session of our own: boto3's default session keeps the first credentials, and asks for an
    # instance's credentials only once, with a timeout of one second.
    session = botocore.session.get_session()
    session.set_config_variable("metadata_service_num_attempts", 3)
    session.set_config_variable("metadata_service_timeout", 2)
    return boto3.Session(botocore_session=session).client(
        "s3",
        config=Config(
            # `_patiently` retries, including the reading of a body.
            retries={"total_max_attempts": 1},
            connect_timeout=READ_TIMEOUT_SECONDS / 2,
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=32,
            # Not all other servers support the newer checksums; this project checks SHA-256 itself.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _patiently(act: Callable[[], T], uri: str) -> T:
    """Call `act`, and repeat it while the server is unreachable."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    began, pause, tries = time.monotonic(), FIRST_PAUSE, 0
    while True:
        try:
            return act()
        except ClientError as error:
            _raise_if_final(error, uri)
            reason: Exception = error
        except (BotoCoreError, HTTPError) as error:
            if isinstance(error, BotoCoreError):
                _raise_if_ours(error, uri)
            reason = error
        tries += 1
        if time.monotonic() - began + pause > RETRY_SECONDS:
            raise Unreachable(
                f"{uri} could not be reached for {RETRY_SECONDS:.0f} s ({one_line(reason, 300)})"
            ) from reason
        if tries == NOTICE_AFTER:
            print(
                f"{uri}: {one_line(reason, 300)}; trying again for up to {RETRY_SECONDS:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        # Random, so that workers don't all try at the same moment.
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE)


def _raise_if_final(error: ClientError, uri: str) -> None:
    """Raise if the error is permanent."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    bucket, _ = _bucket_and_key(uri)
    if code in ABSENT:
        raise FileNotFoundError(uri) from error
    if code == "NoSuchBucket":
        raise InvalidInput(
            f"there is no bucket {bucket!r} ({uri}); create it, name another, or set AWS_ENDPOINT_URL to its server"
        ) from error
    if code in DENIED:
        raise InvalidInput(
            f"{uri} is refused ({code}); check that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) "
            "give access to it"
        ) from error
    if code in ELSEWHERE:
        raise InvalidInput(f"bucket {bucket!r} is in another region ({code}); set AWS_REGION to that region") from error
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if 400 <= status < 500 and status not in (408, 429):
        raise InvalidInput(
            f"{uri} can't be used ({one_line(error, 300)}); fix the URI or the server's settings"
        ) from error


def _raise_if_ours(error: BotoCoreError, uri: str) -> None:
    """Raise if the error is permanent and occurred before any request was sent."""
    from botocore import exceptions

    if isinstance(
        error,
        exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.ProfileNotFound,
    ):
        raise InvalidInput(
            f"{uri} needs credentials ({one_line(error, 300)}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    # Temporary errors; the renewal of an instance's credentials every few hours may fail briefly.
    passing = (
        exceptions.ConnectionError
        | exceptions.HTTPClientError
        | exceptions.IncompleteReadError
        | exceptions.CredentialRetrievalError
    )
    if not isinstance(error, passing):
        raise InvalidInput(
            f"{uri} can't be used ({one_line(error, 300)}); fix the URI or the AWS_* settings"
        ) from error
