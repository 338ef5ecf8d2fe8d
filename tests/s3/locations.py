"""Fixtures: empty locations of every kind to write to, and a data set on S3 behind the proxy.

The servers start once per session, when a test first needs them; each test has its own bucket.
"""

from __future__ import annotations

import functools
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config
from PIL import Image

from dfml import storage
from dfml.data.format.manifest import FILE_NAME, Shard, read_manifest
from dfml.data.format.shards import ImageRow
from dfml.data.packing.pack import pack
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.sharded_images import ShardedImages
from tests.s3.proxy import Proxy
from tests.s3.servers import CEPH_TOOLS, Server, ceph_available, ceph_server, moto_server

SHARDS = 12  # of the small data set


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def ceph() -> Iterator[Server]:
    if not ceph_available():
        pytest.skip(f"needs {', '.join(CEPH_TOOLS)}; see .ci/install_ceph")
    with ceph_server() as server:
        yield server


def use(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process and its children use the server, whatever the environment's settings."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


@functools.cache
def client_of(server: Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required"),
    )


def new_bucket(server: Server) -> str:
    name = f"test-{uuid.uuid4().hex}"
    client_of(server).create_bucket(Bucket=name)
    return name


CEPH = pytest.param("ceph", marks=pytest.mark.integration)  # starting it takes 20 seconds of a core
PLACES = ("folder", "moto", CEPH)


@pytest.fixture(params=PLACES)
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an empty folder or URI to write to."""
    if request.param == "folder":
        return str(tmp_path / "uri")
    server: Server = request.getfixturevalue(request.param)
    use(server, monkeypatch)
    return f"s3://{new_bucket(server)}/some/place"


def noisy_images(count: int, side: int, seed: int = 0) -> Iterator[ImageRow]:
    """Yield JPEGs that hardly compress, of five classes in turn."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "JPEG", quality=90)
        yield ImageRow(stream.getvalue(), f"class {number % 5}", f"{number}.jpg", "train")


def upload(folder: Path, server: Server) -> str:
    """Upload the folder's files to a new bucket and return their URI."""
    bucket = new_bucket(server)
    for file in folder.iterdir():
        client_of(server).put_object(Bucket=bucket, Key=f"set/{file.name}", Body=file.read_bytes())
    return f"s3://{bucket}/set"


@dataclass(frozen=True)
class Streamed:
    """A packed data set on S3, behind a proxy, and the same in a folder.

    Attributes:
        folder: the data set in a folder.
        uri: the same data set on S3.
        server: the server of `uri`, without the proxy.
        proxy: the proxy between the server and this process.
        cache_folder: the cache of this test.
    """

    folder: Path
    uri: str
    server: Server
    proxy: Proxy
    cache_folder: Path

    @property
    def shards(self) -> tuple[Shard, ...]:
        return read_manifest(self.folder).shards

    def images(self, size: int | None = None) -> ShardedImages:
        return ShardedImages(self.uri, "train", Cache(self.cache_folder, size))

    def local(self) -> ShardedImages:
        return ShardedImages(self.folder, "train")

    def path(self, file: str) -> str:
        """Return a file's path as the proxy names it."""
        return storage.join("/" + self.uri.removeprefix("s3://"), file)

    def gets(self, file: str) -> int:
        return self.proxy.gets_of(self.path(file))

    @contextmanager
    def manifest(self, content: bytes | None) -> Iterator[None]:
        """Replace the manifest on S3 (None: delete it) until the block ends."""
        bucket, key = self.path(FILE_NAME)[1:].split("/", 1)
        client = client_of(self.server)
        client.delete_object(Bucket=bucket, Key=key)
        try:
            if content is not None:
                client.put_object(Bucket=bucket, Key=key, Body=content)
            yield
        finally:
            client.put_object(Bucket=bucket, Key=key, Body=(self.folder / FILE_NAME).read_bytes())


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a packed data set of 12 shards of 100 KB, with 8 images each."""
    images = list(noisy_images(8 * SHARDS, side=96))
    folder = tmp_path_factory.mktemp("small-set")
    manifest = pack(images, folder, "noise", shard_bytes=int(8.5 * max(image.size for image in images)))
    assert len(manifest.shards) == SHARDS
    return folder


@pytest.fixture(scope="session")
def small_set_on_s3(small_set: Path, moto: Server) -> str:
    """Upload the small data set once; tests that change it put it back."""
    return upload(small_set, moto)


@pytest.fixture
def streamed(
    small_set: Path, small_set_on_s3: str, moto: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Streamed]:
    """Return the small data set on S3, behind a proxy."""
    with Proxy(moto.endpoint) as proxy:
        use(replace(moto, endpoint=proxy.endpoint), monkeypatch)
        yield Streamed(small_set, small_set_on_s3, moto, proxy, tmp_path / "cache")
