"""What the commands `python -m dfml.train` and `python -m dfml.evaluate` share: processes, data, and how metrics are printed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from dfml.data.cache import Cache, default_folder
from dfml.data.cores import available, over_cores
from dfml.data.datasets import PACKED, locate
from dfml.data.manifest import is_packed
from dfml.data.packing import pack
from dfml.data.progress import BytesDone
from dfml.data.readers import BENCHMARK_SETS, check_counts, read_benchmark_set
from dfml.distributed import rank
from dfml.errors import InvalidInput
from dfml.task import heading

PATIENCE = timedelta(hours=2)  # that ranks wait for one that packs images, or clusters embeddings for NMI


@contextmanager
def processes() -> Iterator[torch.device]:
    """The device of this process; under torchrun with the process group of all."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)  # NCCL's collectives of objects and barriers go by the current device
    if "RANK" not in os.environ:
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def loader_workers(asked: int | None, device: torch.device) -> int:
    """How many processes load images: `asked`, else 4 where a GPU computes and none where the CPU does."""
    return asked if asked is not None else 4 * (device.type == "cuda")


def data_place(arguments: argparse.Namespace) -> str:
    """The place of the packed data set that a command's flags mean; a benchmark set is packed on first use, by one process for all.

    Raises:
        InvalidInput: there is none, or it can't be packed.
    """
    dataset: str = arguments.dataset
    packed = arguments.data_root / PACKED.name / dataset.lower()
    if arguments.data is not None or dataset.lower() not in BENCHMARK_SETS:
        return locate(dataset, arguments.data)
    failure = None
    if rank() == 0 and not is_packed(packed):
        try:
            _pack(dataset, arguments.data_root, packed)
        except InvalidInput as error:  # the others must hear of it, or they wait for ever
            failure = str(error)
    if dist.is_initialized():
        said = [failure]
        dist.broadcast_object_list(said)
        failure = said[0]
    if failure is not None:
        raise InvalidInput(failure)
    return str(packed)


def _pack(dataset: str, data_root: Path, to: Path) -> None:
    sources = read_benchmark_set(dataset, data_root)
    print(f"packing {dataset} from {data_root} into {to}, this once …", file=sys.stderr, flush=True)
    for difference in check_counts(dataset, sources):
        print(f"warning: {difference}", file=sys.stderr, flush=True)
    with BytesDone("packing") as progress:
        pack(sources, to, dataset.lower(), run=partial(over_cores, processes=available()), progress=progress)


def cache_of(arguments: argparse.Namespace) -> Cache:
    """The node's cache that a command's flags mean."""
    return Cache(arguments.cache_dir or default_folder(), arguments.cache_size)


def say(line: str) -> None:
    """Print a line; of several processes the first one's."""
    if rank() == 0:
        print(line, flush=True)


def say_metrics(title: str, metrics: dict[str, float]) -> None:
    """Two lines under a title: the metrics' short names over their values."""
    say(f"\n{title}\n" + "  ".join(f"{heading(name):>7}" for name in metrics))
    say("  ".join(f"{value:7.4f}" for value in metrics.values()))
