"""A sweep whose storage is an S3 server, over real HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from small_sweep import sweep_of

import dfml
from dfml import storage
from dfml.data.manifest import read_manifest

pytestmark = pytest.mark.integration


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="models")
    yield "s3://models"
    server.stop()


def test_a_sweep_lives_on_s3_and_streams_its_data_from_there(bucket: str, few_emoji: Path, tmp_path: Path) -> None:
    storage.upload(few_emoji, f"{bucket}/few")
    sweep = sweep_of(f"{bucket}/few", f"{bucket}/sweeps", "cloud", trials=1)
    sweep.arguments[sweep.arguments.index("--max-epochs") + 1] = "2"
    sweep.arguments += ["--cache-dir", str(tmp_path / "cache")]
    printed = sweep.run()
    assert f"{bucket}/sweeps/cloud/best" in printed
    keys = [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="models")["Contents"]]
    for file in ("sweep.json", "best/model.safetensors", "report/index.html", "trials/000/record.json"):
        assert f"sweeps/cloud/{file}" in keys
    model = dfml.load(f"{bucket}/sweeps/cloud/best")
    assert model.recipe.epochs == 2
    assert "has ended already" in sweep.run()
    assert not os.path.exists("s3:")
    kept = {path.stem for path in (tmp_path / "cache").iterdir() if path.suffix in (".parquet", ".arrow")}
    manifest = read_manifest(few_emoji)
    assert kept == {file.sha256 for file in (*manifest.shards, *(split.index for split in manifest.splits.values()))}
