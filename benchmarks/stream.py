"""Measure how fast loaders stream images into batches from an S3 server with 20 ms of latency.

    python benchmarks/stream.py [--work DIR] [--images 20000] [--workers 2] [--batch 128]
        [--rounds 1] [--only NAME ...]

The contenders are our loader, LitData, MosaicML Streaming and Ray Data; a local ImageFolder and
bare decoding are the references. All get the same generated JPEGs (200 classes of 100), the same
transform and the same number of worker processes, and shuffle as their documentation advises. In
each round they take turns, each in a fresh process with an empty cache folder: epoch 1 is cold,
epoch 2 is warm. LitData and MosaicML Streaming are installed into a virtual environment in the
work folder, where images and formats are kept too. Print one table and write stream.json next to
this file. streams/common.py describes the interface of a contender.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import site
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tests.s3.servers import ceph_available, ceph_server, moto_server, running  # noqa: E402

IMAGES_A_CLASS = 100
LEAST_BYTES, MOST_BYTES = 20_000, 60_000
BUCKET = "stream"


@dataclass(frozen=True)
class Contender:
    """A script in benchmarks/streams.

    Attributes:
        script: the name of its file.
        streams: whether it streams from S3; if not, it reads the folder of images.
        foreign: whether it needs the environment of requirements.txt.
        waits: whether it waits for all its processes, so that their CPU time is known.
    """

    script: str
    streams: bool = True
    foreign: bool = False
    waits: bool = True

    def path(self) -> str:
        return str(HERE / "streams" / self.script)


CONTENDERS = {
    "bare": Contender("bare.py", streams=False),
    "ImageFolder": Contender("image_folder.py", streams=False),
    "ours": Contender("ours.py"),
    "LitData": Contender("litdata_stream.py", foreign=True),
    "MosaicML": Contender("mosaic_stream.py", foreign=True),
    "Ray Data": Contender("ray_data_stream.py", waits=False),
}


def jpeg(index: int) -> bytes:
    """Return a JPEG of smooth colors, fine texture and noise that compresses like a photograph."""
    random = np.random.default_rng([0, index])
    while True:
        width, height = random.integers(320, 401, 2)
        pixels = np.full((height, width, 3), 128, np.float32)
        for cells, amplitude in ((3, 60), (8, 30), (24, 14), (70, 8)):
            field = (random.standard_normal((cells, cells, 3)) * 20 + 128).clip(0, 255).astype(np.uint8)
            scaled = Image.fromarray(field).resize((int(width), int(height)), Image.Resampling.BICUBIC)
            pixels += (np.asarray(scaled, np.float32) - 128) * (amplitude / 20)
        pixels += random.standard_normal((height, width, 1), np.float32) * random.uniform(3, 9)
        encoded = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=88)
        if LEAST_BYTES <= encoded.tell() <= MOST_BYTES:
            return encoded.getvalue()


def write_class(folder: Path, images: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in images:
        (folder / f"{index:06d}.jpg").write_bytes(jpeg(index))


def generated(work: Path, images: int) -> Path:
    """Return the folder of generated images; generate them if it doesn't exist."""
    folder = work / f"images-{images}"
    if not folder.exists():
        partial = work / f"images-{images}.partial"
        starts = range(0, images, IMAGES_A_CLASS)
        classes = [(partial / f"class_{start // IMAGES_A_CLASS:04d}", range(start, min(start + IMAGES_A_CLASS, images)))
                   for start in starts]  # fmt: skip
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            pool.starmap(write_class, classes, chunksize=1)
        partial.rename(folder)
    return folder


def foreign_python(work: Path) -> Path:
    """Return a Python with requirements.txt and our own packages: torch isn't installed twice."""
    folder, requirements = work / "contenders", HERE / "streams" / "requirements.txt"
    python, installed = folder / "bin" / "python", folder / "requirements.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        venv.create(folder, clear=True, with_pip=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        # A .pth file appends to sys.path, so packages installed here come first. pip doesn't touch
        # packages elsewhere, and warns that our own pins aren't met here.
        own = folder / "lib" / version / "site-packages" / "own.pth"
        own.write_text("\n".join(site.getsitepackages()) + "\n")
        run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], dict(os.environ), 1800)
        shutil.copy(requirements, installed)
    return python


def reason(error: str) -> str:
    """Return the line of a process's stderr that best explains why it failed."""
    lines = [line.strip()[:200] for line in error.splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in reversed(lines) if "Error" in line.partition(" ")[0]), lines[-1])


def run(command: list[str], environment: dict[str, str], timeout: float) -> str:
    """Run a command and return its stdout; all processes of its group end with it.

    Raises:
        RuntimeError: the command failed or took too long.
    """
    with tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=error, text=True, env=environment, start_new_session=True
        )
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done after {timeout:.0f} s") from None
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    break
                time.sleep(1)
            process.wait()
        error.seek(0)
        if process.returncode:
            raise RuntimeError(reason(error.read()))
    return out


@contextmanager
def proxy(upstream: str, latency: float) -> Iterator[str]:
    """Run the proxy that adds latency and counts; yield its endpoint."""
    command = [sys.executable, "-m", "tests.s3.proxy", "--upstream", upstream, "--latency", str(latency)]
    with running(command, subprocess.PIPE, {**os.environ, "PYTHONPATH": str(HERE.parent)}) as process:
        assert process.stdout
        yield process.stdout.readline().decode().strip()


def counted(endpoint: str) -> tuple[int, int]:
    """Return the bytes and GETs at the proxy since the last call."""
    with urllib.request.urlopen(f"{endpoint}/__counts__") as reply:
        counts = json.load(reply)
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/__reset__", method="POST")).close()
    return sum(counts["bytes"].values()), sum(counts["gets"].values())


def cpu_seconds() -> float:
    """Return the CPU seconds of all child processes that have been waited for, recursively."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.images = generated(self.work, arguments.images)
        self.failures: dict[str, str] = {}
        self.found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.only}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "AWS_DEFAULT_REGION": "us-east-1"}

    def command(self, name: str, *arguments: object) -> list[str]:
        contender = CONTENDERS[name]
        python = foreign_python(self.work) if contender.foreign else sys.executable
        return [str(python), contender.path(), *map(str, arguments)]

    def prepared(self, name: str) -> Path:
        """Return the folder of the images in the contender's format; write it if it is missing."""
        folder = self.work / f"{Path(CONTENDERS[name].script).stem}-{self.arguments.images}"
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            run(self.command(name, "prepare", "--images", self.images, "--out", partial), self.environment, 900)
            partial.rename(folder)
        return folder

    def upload(self, name: str, s3: Any) -> None:
        folder = self.prepared(name)
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            s3.upload_file(str(file), BUCKET, f"{folder.name}/{file.relative_to(folder).as_posix()}")

    def measure(self, name: str, endpoint: str) -> None:
        contender = CONTENDERS[name]
        source = f"s3://{BUCKET}/{self.prepared(name).name}" if contender.streams else self.images
        counted(endpoint)
        with tempfile.TemporaryDirectory(dir=self.work) as cache:
            command = self.command(
                name, "measure", "--source", source, "--cache", Path(cache) / "cache", "--epochs", 2,
                "--batch", self.arguments.batch, "--workers", self.arguments.workers,
            )  # fmt: skip
            before = cpu_seconds()
            out = run(command, {**self.environment, "AWS_ENDPOINT_URL": endpoint}, self.arguments.timeout)
        found = json.loads(out.splitlines()[-1])
        found["cpu_s"] = cpu_seconds() - before if contender.waits else None
        found["bytes"], found["gets"] = counted(endpoint)
        self.found[name].append(found)

    def attempt(self, name: str, step: Any, *arguments: Any) -> None:
        """Run a step of a contender; after a failure, report it at the end and skip its steps."""
        if name in self.failures:
            return
        try:
            step(name, *arguments)
        except (RuntimeError, json.JSONDecodeError, IndexError) as error:
            self.failures[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)

    def all(self) -> str:
        """Run all rounds and return the name of the server."""
        server = ceph_server if ceph_available() else moto_server
        with server() as upstream:
            self.environment |= upstream.environment()
            self.environment |= {
                "AWS_ACCESS_KEY_ID": upstream.access_key,
                "AWS_SECRET_ACCESS_KEY": upstream.secret_key,
            }
            s3 = boto3.client(
                "s3",
                endpoint_url=upstream.endpoint,
                aws_access_key_id=upstream.access_key,
                aws_secret_access_key=upstream.secret_key,
                region_name=self.environment["AWS_DEFAULT_REGION"],
            )
            s3.create_bucket(Bucket=BUCKET)
            for name in self.arguments.only:
                if CONTENDERS[name].streams:
                    self.attempt(name, self.upload, s3)
            with proxy(upstream.endpoint, self.arguments.latency) as endpoint:
                for _ in range(self.arguments.rounds):
                    for name in self.arguments.only:
                        self.attempt(name, self.measure, endpoint)
        return server.__name__.removesuffix("_server")


def rate(found: list[dict[str, Any]], epoch: int) -> float:
    """Return the images per second, the median of the rounds."""
    epochs = [run["epochs"][epoch] for run in found]
    return statistics.median(epoch["images"] / epoch["seconds"] for epoch in epochs)


def cpu_a_image(found: list[dict[str, Any]]) -> str:
    costs = [1000 * run["cpu_s"] / sum(epoch["images"] for epoch in run["epochs"]) for run in found if run["cpu_s"]]
    return f"{statistics.median(costs):10.2f}" if costs else f"{'unknown':>10}"


def table(bench: Bench, server: str, data_bytes: int) -> Iterator[str]:
    arguments = bench.arguments
    yield (
        f"{arguments.images} JPEGs, {data_bytes / 1e6:.0f} MB, batch {arguments.batch}, {arguments.workers} workers, "
        f"{server} with {arguments.latency * 1000:.0f} ms latency, median of {arguments.rounds} rounds in turns"
    )
    yield (
        f"{'':12}  cold img/s (of bare)   warm img/s (of bare)   first batch   "
        "fetched (× images' bytes)    GETs   CPU ms/img"
    )
    bare = bench.found.get("bare")
    for name, found in bench.found.items():
        if name in bench.failures or not found:
            yield f"{name:12}  failed: {bench.failures.get(name)}"
            continue
        cells = []
        for epoch in (0, 1):
            share = f"({rate(found, epoch) / rate(bare, epoch):4.0%})" if bare else ""
            cells.append(f"{rate(found, epoch):10.0f} {share:>11}")
        first, fetched, gets = (
            statistics.median(run[key] for run in found) for key in ("first_batch_s", "bytes", "gets")
        )
        yield (f"{name:12}  {cells[0]}   {cells[1]}   {first:9.1f} s   {fetched / 1e6:8.0f} MB"
               f" ({fetched / data_bytes:4.2f})   {gets:14.0f}   {cpu_a_image(found)}")  # fmt: skip
    yield "Server and proxy share the cores with the contenders. Bytes, GETs and CPU are totals of both epochs."
    yield "CPU includes imports but not server and proxy; unlike images/s it hardly depends on other load."
    yield "Ray Data keeps no copy between epochs; ImageFolder reads the local disk; bare only decodes and transforms."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "stream-benchmark")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2, help="loader processes of each contender")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the proxy waits before each reply")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a contender may take for both epochs")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    server = bench.all()
    data_bytes = sum(file.stat().st_size for file in bench.images.rglob("*.jpg"))
    print("\n".join(table(bench, server, data_bytes)))
    content = {
        **{key: value for key, value in vars(arguments).items() if key != "work"},
        "server": server,
        "image_bytes": data_bytes,
        "runs": bench.found,
        "failures": bench.failures,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
