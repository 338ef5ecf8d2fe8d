"""Helpers for the commands that use torch: processes, data sets, and printed metrics."""

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

from dfml.data.datasets import PACKED, found_in_variable, locate
from dfml.data.format.manifest import is_packed
from dfml.data.packing.cores import available, map_in_processes
from dfml.data.packing.pack import pack
from dfml.data.packing.progress import BytesDone
from dfml.data.packing.readers import BENCHMARK_SETS, check_counts, read_benchmark_set
from dfml.data.streaming.cache import Cache, default_folder
from dfml.distributed import rank
from dfml.errors import InvalidInput, RunFailed
from dfml.task import heading

# Rank 0 may pack images, or run k-means for NMI, while the other ranks wait.
COLLECTIVE_TIMEOUT = timedelta(hours=2)


@contextmanager
def processes() -> Iterator[torch.device]:
    """Yield the device of this process; under torchrun, with the process group initialized."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        # NCCL's barriers and collectives of objects use the current device.
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def loader_workers(asked: int | None, device: torch.device) -> int:
    """Return the number of DataLoader workers: the requested number, else 4 on GPU, 0 on CPU."""
    return asked if asked is not None else 4 * (device.type == "cuda")


def data_uri(arguments: argparse.Namespace) -> str:
    """Return the URI of the packed data set that a command's flags name.

    A benchmark set is looked for in `DFML_DATA`, then below `--data-root`, where rank 0 packs it on
    first use.

    Raises:
        InvalidInput: there is no such data set, or it can't be packed.
        RunFailed: packing failed.
    """
    dataset: str = arguments.dataset
    packed = arguments.data_root / PACKED.name / dataset.lower()
    if arguments.data is not None or dataset.lower() not in BENCHMARK_SETS:
        return locate(dataset, arguments.data)
    if (found := found_in_variable(dataset)) is not None:
        return found
    failure: InvalidInput | RunFailed | None = None
    if rank() == 0 and not is_packed(packed):
        try:
            _pack(dataset, arguments.data_root, packed)
        except (InvalidInput, RunFailed) as error:
            # Raised below on all ranks; otherwise the other ranks would wait forever.
            failure = error
    if dist.is_initialized():
        said = [failure]
        dist.broadcast_object_list(said)
        failure = said[0]
    if failure is not None:
        raise failure
    return str(packed)


def _pack(dataset: str, data_root: Path, to: Path) -> None:
    sources = read_benchmark_set(dataset, data_root)
    print(f"packing {dataset} from {data_root} into {to} (on first use only) …", file=sys.stderr, flush=True)
    for difference in check_counts(dataset, sources):
        print(f"warning: {difference}", file=sys.stderr, flush=True)
    with BytesDone("packing") as progress:
        pack(sources, to, dataset.lower(), run=partial(map_in_processes, processes=available()), progress=progress)


def cache_of(arguments: argparse.Namespace) -> Cache:
    """Return the node's cache that a command's flags name."""
    return Cache(arguments.cache_dir or default_folder(), arguments.cache_size)


def print_rank0(line: str) -> None:
    """Print a line on rank 0 only."""
    if rank() == 0:
        print(line, flush=True)


def print_metrics(title: str, metrics: dict[str, float]) -> None:
    """Print two lines below a title: the metrics' short names, and their values."""
    print_rank0(f"\n{title}\n" + "  ".join(f"{heading(name):>7}" for name in metrics))
    print_rank0("  ".join(f"{value:7.4f}" for value in metrics.values()))
