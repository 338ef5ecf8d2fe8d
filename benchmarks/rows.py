"""Measure the costs per process of a data set with as many rows as ImageNet's training split.

    python benchmarks/rows.py [--rows 1281167]

1,281,167 tiny images are packed once, into 4,500 shards in the work folder. A fresh process with
two loader processes measures its memory, the time until the first batch can be requested, and the
time to compute an epoch's order. Print one table and write rows.json next to this file.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SHARDS, BATCH = 1000, 4500, 256


def packed(work: Path, rows: int) -> Path:
    """Pack images of 4 × 4 pixels, all different, and return the URI of the data set."""
    from dfml.data.format.manifest import is_packed
    from dfml.data.packing.cores import map_in_processes
    from dfml.data.packing.pack import pack
    from dfml.data.packing.source import ImageSource

    uri = work / f"rows-{rows}"
    if is_packed(uri):
        return uri
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"rows-{rows}.bin"
    ranges: list[tuple[int, int]] = []
    with file.open("wb") as stream:
        for row in range(rows):
            image = io.BytesIO()
            pixels = np.frombuffer(row.to_bytes(8, "little") * 6, dtype=np.uint8).reshape(4, 4, 3)
            Image.fromarray(pixels).save(image, "BMP")
            ranges.append((stream.tell(), image.tell()))
            stream.write(image.getvalue())
    sources = [
        ImageSource(file, f"n{row % CLASSES:08d}", f"n{row % CLASSES:08d}/{row}.bmp", "train", *ranges[row])
        for row in range(rows)
    ]
    size = sum(size for _, size in ranges)
    pack(sources, uri, "rows", size // SHARDS, run=partial(map_in_processes, processes=2))
    file.unlink()
    return uri


def measure(uri: Path) -> None:
    import psutil
    import torch

    from dfml.data.streaming.loader import Loader
    from dfml.data.streaming.order import epoch_batches
    from dfml.data.streaming.sharded_images import ShardedImages
    from dfml.data.streaming.split import training_and_validation
    from dfml.recipe import recipe_from

    torch.set_num_threads(1)
    recipe = recipe_from({"loss": "cross_entropy", "batch_size": BATCH, "image_size": 32})

    def megabytes() -> float:
        return float(psutil.Process().memory_full_info().uss) / 1e6

    def resident() -> float:
        return float(psutil.Process().memory_info().rss) / 1e6

    bare, bare_resident = megabytes(), resident()
    began = time.perf_counter()
    images = ShardedImages(uri, "train")
    opened = time.perf_counter()
    subset, _ = training_and_validation(images, 0, "classification")
    split = time.perf_counter()
    orders = {}
    for name, epoch, per_class, window in (
        ("first epoch", 1, None, None),
        ("global shuffle", 2, None, None),
        ("P×K", 2, 4, None),
        ("window of 200 shards", 2, None, 200),
        ("P×K, window of 200 shards", 2, 4, 200),
    ):
        start = time.perf_counter()
        batches = epoch_batches(subset.targets, BATCH, per_class, 0, epoch, images.shard_numbers[subset.rows], window)
        orders[name] = time.perf_counter() - start
    whole, whole_resident = megabytes(), resident()
    start = time.perf_counter()
    loader = Loader(recipe, [subset], workers=2)
    next(loader.training(subset, batches, epoch=2))
    first = time.perf_counter() - start
    children = [child.memory_full_info().uss / 1e6 for child in psutil.Process().children()]
    found = {
        "rows": len(images),
        "shards": len(images.shards),
        "imports_mb": bare,
        "imports_resident_mb": bare_resident,
        "process_mb": whole,
        "process_resident_mb": whole_resident,
        "loader_process_mb": max(children),
        "open_s": opened - began,
        "split_s": split - opened,
        "order_s": orders,
        "first_batch_s": first,
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "rows-benchmark")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    uri = packed(arguments.work, arguments.rows)
    out = subprocess.run(
        [sys.executable, __file__, "--measure", str(uri)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    found = json.loads(out.splitlines()[-1])
    print(f"{found['rows']:,} rows in {found['shards']:,} shards, batch {BATCH}")
    print(
        f"memory of the process    {found['process_mb']:6.0f} MB private, "
        f"{found['process_resident_mb']:.0f} MB resident "
        f"(after imports alone {found['imports_mb']:.0f} and {found['imports_resident_mb']:.0f}); "
        f"a loader process: {found['loader_process_mb']:.0f} MB private"
    )
    print(
        f"start                    {found['open_s'] + found['split_s']:6.2f} s "
        f"(open {found['open_s']:.2f}, split {found['split_s']:.2f})"
    )
    for name, seconds in found["order_s"].items():
        print(f"order, {name:26}{seconds:6.2f} s")
    print(f"first batch of 2 workers {found['first_batch_s']:6.2f} s")
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
