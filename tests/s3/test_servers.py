"""The S3 servers and the proxy, on which other tests rely, tested with boto3."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pyarrow.fs import S3FileSystem

from tests.s3.faults import Fault
from tests.s3.proxy import Proxy
from tests.s3.servers import CEPH_TOOLS, Server, ceph_available, ceph_server, running

pytestmark = pytest.mark.integration
needs_ceph = pytest.mark.skipif(not ceph_available(), reason=f"needs {', '.join(CEPH_TOOLS)}; see .ci/install_ceph")

BUCKET = "models"
DATA = random.Random(0).randbytes(9_000_001)  # three parts of Ceph's, and of an odd length
PATH = f"/{BUCKET}/a folder/data"
KEY = "a folder/data"


def client_of(server: Server, **changes: str) -> Any:
    server = replace(server, **changes)
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(
            request_checksum_calculation="when_required",
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=20,
        ),
    )


@pytest.fixture(scope="module", params=["moto", pytest.param("ceph", marks=needs_ceph)])
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    client = client_of(server)
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key=KEY, Body=DATA)
    return server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def client(server: Server, proxy: Proxy) -> Any:
    return client_of(server, endpoint=proxy.endpoint)


def read(client: Any, **options: str) -> bytes:
    body: bytes = client.get_object(Bucket=BUCKET, Key=KEY, **options)["Body"].read()
    return body


def answers(client: Any) -> bool:
    try:
        return bool(client.head_object(Bucket=BUCKET, Key=KEY))
    except BotoCoreError:
        return False


def test_all_operations_pass_unchanged(client: Any, proxy: Proxy) -> None:
    client.put_object(Bucket=BUCKET, Key="new/ü+1", Body=DATA)  # sent with "Expect: 100-continue"
    assert client.get_object(Bucket=BUCKET, Key="new/ü+1")["Body"].read() == DATA
    client.put_object(Bucket=BUCKET, Key="new/empty", Body=b"")
    assert client.get_object(Bucket=BUCKET, Key="new/empty")["Body"].read() == b""
    assert client.head_object(Bucket=BUCKET, Key=KEY)["ContentLength"] == len(DATA)
    part = client.get_object(Bucket=BUCKET, Key=KEY, Range="bytes=5-104")
    assert part["Body"].read() == DATA[5:105]
    assert part["ContentRange"] == f"bytes 5-104/{len(DATA)}"
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix="new/")["Contents"]
    assert {item["Key"]: item["Size"] for item in listed} == {"new/ü+1": len(DATA), "new/empty": 0}
    for key in ("new/ü+1", "new/empty"):
        client.delete_object(Bucket=BUCKET, Key=key)
    assert "Contents" not in client.list_objects_v2(Bucket=BUCKET, Prefix="new/")
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=BUCKET, Key="new/empty")
    assert ("PUT", f"/{BUCKET}/new/ü+1", 200) in proxy.requests
    assert proxy.requests[-1] == ("GET", f"/{BUCKET}/new/empty", 404)


def test_bodies_in_chunks_pass(server: Server, client: Any, proxy: Proxy) -> None:
    """Ceph may refuse them (411), which must be passed on to the client."""

    def upload(endpoint: str, key: str) -> tuple[int, bool]:
        signed = client_of(server, endpoint=endpoint).generate_presigned_url(
            "put_object", Params={"Bucket": BUCKET, "Key": key}
        )
        with closing(http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=20)) as connection:
            pieces = iter([DATA[:1000], DATA[1000:]])
            chunked = {"Transfer-Encoding": "chunked"}
            connection.request("PUT", signed.removeprefix(endpoint), pieces, chunked, encode_chunked=True)
            status = connection.getresponse().status
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=key).get("Contents")
        return status, found is not None and client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == DATA

    assert upload(proxy.endpoint, "chunks/proxy") == upload(server.endpoint, "chunks/direct")


def test_pyarrow_passes(server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    if server.name == "ceph":  # pyarrow's own way, chunks with a checksum behind them, is refused by Ceph 16
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store = S3FileSystem(
        access_key=server.access_key,
        secret_key=server.secret_key,
        endpoint_override=urlsplit(proxy.endpoint).netloc,
        scheme="http",
        region="us-east-1",
    )
    with store.open_output_stream(f"{BUCKET}/arrow") as file:
        file.write(DATA)
    with store.open_input_file(f"{BUCKET}/arrow") as file:
        assert file.read() == DATA


def test_counts_what_each_object_costs(client: Any, proxy: Proxy) -> None:
    with ThreadPoolExecutor(4) as pool:
        ranges = [f"bytes={start}-{start + 99}" for start in range(0, 4000, 100)]
        assert b"".join(pool.map(lambda part: read(client, Range=part), ranges)) == DATA[:4000]
    client.head_object(Bucket=BUCKET, Key=KEY)
    assert (proxy.gets_of(PATH), proxy.bytes_of(PATH)) == (40, 4000)
    assert proxy.bytes_of(f"/{BUCKET}/") == 4000
    assert proxy.bytes_of(f"/{BUCKET}/other") == 0
    with urllib.request.urlopen(f"{proxy.endpoint}/__counts__") as reply:
        assert json.load(reply) == {"bytes": {PATH: 4000}, "gets": {PATH: 40}}
    urllib.request.urlopen(urllib.request.Request(f"{proxy.endpoint}/__reset__", method="POST")).close()
    assert (proxy.gets_of(""), proxy.bytes_of(""), proxy.requests) == (0, 0, [])


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")])
def test_errors_on_purpose(client: Any, proxy: Proxy, status: int, code: str) -> None:
    proxy.fault = lambda method, path, number: Fault(status, code) if number == 0 else None
    for call in (
        lambda: read(client),
        lambda: client.put_object(Bucket=BUCKET, Key="refused", Body=DATA),
        lambda: client.list_objects_v2(Bucket=BUCKET),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert read(client) == DATA
    assert "refused" not in [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert [status for method, path, status in proxy.requests if path == PATH] == [status, 200]


def test_a_body_that_is_cut(client: Any, proxy: Proxy) -> None:
    proxy.fault = lambda method, path, number: Fault(cut_after=1_500_000)
    reply = client.get_object(Bucket=BUCKET, Key=KEY)
    assert reply["ContentLength"] == len(DATA)
    with pytest.raises(BotoCoreError):
        reply["Body"].read()
    assert proxy.bytes_of(PATH) == 1_500_000
    proxy.fault = None
    assert read(client) == DATA


def test_a_flipped_bit(client: Any, proxy: Proxy) -> None:
    at = 2_345_678
    proxy.fault = lambda method, path, number: Fault(flip=at)
    assert read(client) == DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]


def test_a_truncated_body_is_consistent(client: Any, proxy: Proxy) -> None:
    proxy.fault = lambda method, path, number: Fault(truncate=1_500_000)
    assert client.head_object(Bucket=BUCKET, Key=KEY)["ContentLength"] == 1_500_000
    assert read(client) == DATA[:1_500_000]
    proxy.fault = lambda method, path, number: Fault(truncate=10)
    part = client.get_object(Bucket=BUCKET, Key=KEY, Range="bytes=5-104")
    assert (part["Body"].read(), part["ContentRange"]) == (DATA[5:15], f"bytes 5-14/{len(DATA)}")
    proxy.fault = None
    assert read(client) == DATA


def test_slow_replies(client: Any, proxy: Proxy) -> None:
    def seconds() -> float:
        start = time.monotonic()
        assert read(client, Range="bytes=0-99999") == DATA[:100_000]
        return time.monotonic() - start

    proxy.fault = lambda method, path, number: Fault(pace=400_000)
    assert seconds() >= 0.25
    proxy.fault = lambda method, path, number: Fault(delay=0.2)
    assert seconds() >= 0.2
    proxy.fault = None
    proxy.latency = 0.1
    assert seconds() >= 0.1


def test_down_and_up_again(client: Any, proxy: Proxy) -> None:
    reply = client.get_object(Bucket=BUCKET, Key=KEY)
    proxy.down()
    with pytest.raises(BotoCoreError):  # more than fits into the buffers of an open connection
        reply["Body"].read()
    start = time.monotonic()
    with pytest.raises(BotoCoreError, match="Could not connect"):
        read(client)
    assert time.monotonic() - start < 1, "refused at once"
    proxy.up()
    assert read(client) == DATA
    proxy.down(seconds=0.2)
    with pytest.raises(BotoCoreError):
        read(client)
    end = time.monotonic() + 20
    while not answers(client):
        assert time.monotonic() < end, "it stays down"
        time.sleep(0.02)
    assert read(client) == DATA


def test_a_proxy_in_its_own_process(server: Server) -> None:
    command = [sys.executable, "-m", "tests.s3.proxy", "--upstream", server.endpoint, "--latency", "0.02"]
    with running(command, subprocess.PIPE) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().decode().strip()
        assert read(client_of(server, endpoint=endpoint)) == DATA
        with urllib.request.urlopen(f"{endpoint}/__counts__") as reply:
            assert json.load(reply)["bytes"] == {PATH: len(DATA)}


def test_an_environment_is_all_that_boto3_needs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    assert read(boto3.session.Session().client("s3"), Range="bytes=0-9") == DATA[:10]


@needs_ceph
def test_ceph_refuses_wrong_credentials(ceph: Server) -> None:
    with Proxy(ceph.endpoint) as proxy:
        client_of(ceph, endpoint=proxy.endpoint).create_bucket(Bucket="not-for-all")
        for wrong in ({"secret_key": "wrong"}, {"access_key": "wrong"}):
            client = client_of(ceph, endpoint=proxy.endpoint, **wrong)
            with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
                client.put_object(Bucket="not-for-all", Key="refused", Body=DATA)
            with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
                client.list_buckets()
        assert [status for method, path, status in proxy.requests] == [200, 403, 403, 403, 403]


@needs_ceph
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_daemon_outlives_the_tests(how: signal.Signals) -> None:
    script = "import time; from tests.s3 import servers\nwith servers.ceph_server(): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        daemons = psutil.Process(process.pid).children()  # not theirs, which live for a moment
        folder = Path(daemons[0].cmdline()[2]).parent
        assert {daemon.name() for daemon in daemons} == {"ceph-mon", "ceph-mgr", "ceph-osd", "radosgw"}
        process.send_signal(how)
    _, alive = psutil.wait_procs(daemons, timeout=5)
    assert not alive
    assert folder.exists() == (how == signal.SIGKILL), "only who is killed cannot tidy up"
    shutil.rmtree(folder, ignore_errors=True)


@needs_ceph
def test_a_ceph_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "radosgw"
    broken.write_text("#!/bin/sh\necho no gateway today\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(RuntimeError, match="no gateway today"), ceph_server():
        pass
    assert set(psutil.Process().children(recursive=True)) <= before
