"""Fixtures: empty places to write to, of every kind that there is, and a data set on S3 behind the proxy.

The servers start once a session, when a test first asks for them; each test has a bucket of its own.
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
from dfml.data.cache import Cache
from dfml.data.dataset import ShardedImages
from dfml.data.manifest import FILE_NAME, Shard, read_manifest
from dfml.data.packing import pack
from dfml.data.shards import ImageRow
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
    """Let this process, and those that it starts, find the server, whatever the settings around the tests."""
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
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place to write to."""
    if request.param == "folder":
        return str(tmp_path / "place")
    server: Server = request.getfixturevalue(request.param)
    use(server, monkeypatch)
    return f"s3://{new_bucket(server)}/some/place"


def noisy_images(count: int, side: int, seed: int = 0) -> Iterator[ImageRow]:
    """JPEGs that are hard to compress, of five classes in turn."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "JPEG", quality=90)
        yield ImageRow(stream.getvalue(), f"class {number % 5}", f"{number}.jpg", "train")


def upload(folder: Path, server: Server) -> str:
    """The folder's files in a new bucket; returns its place."""
    bucket = new_bucket(server)
    for file in folder.iterdir():
        client_of(server).put_object(Bucket=bucket, Key=f"set/{file.name}", Body=file.read_bytes())
    return f"s3://{bucket}/set"


@dataclass(frozen=True)
class Streamed:
    """A packed data set on S3, behind a proxy, and the same in a folder.

    Attributes:
        folder: what it should read like.
        place: the same on S3.
        server: where `place` is, not through the proxy.
        proxy: between it and this process.
        cache_folder: of this test's own.
    """

    folder: Path
    place: str
    server: Server
    proxy: Proxy
    cache_folder: Path

    @property
    def shards(self) -> tuple[Shard, ...]:
        return read_manifest(self.folder).shards

    def images(self, size: int | None = None) -> ShardedImages:
        return ShardedImages(self.place, "train", Cache(self.cache_folder, size))

    def local(self) -> ShardedImages:
        return ShardedImages(self.folder, "train")

    def path(self, file: str) -> str:
        """As the proxy names it."""
        return storage.join("/" + self.place.removeprefix("s3://"), file)

    def gets(self, file: str) -> int:
        return self.proxy.gets_of(self.path(file))

    @contextmanager
    def manifest(self, content: bytes | None) -> Iterator[None]:
        """Have another manifest on S3, or none."""
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
    """A packed data set of 12 shards with 8 images each, 100 KB a shard."""
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
    """The small data set on S3."""
    with Proxy(moto.endpoint) as proxy:
        use(replace(moto, endpoint=proxy.endpoint), monkeypatch)
        yield Streamed(small_set, small_set_on_s3, moto, proxy, tmp_path / "cache")
