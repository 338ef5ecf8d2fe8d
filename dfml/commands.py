"""What the commands `python -m dfml.train` and `python -m dfml.evaluate` share: processes, data, and how metrics are printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from dfml.data.benchmark_sets import BENCHMARK_SETS, benchmark_folder, is_packed, packed_benchmark_set
from dfml.data.datasets import locate
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


def data_folder(dataset: str, data: str | None, data_root: Path) -> Path:
    """The packed data set that a command's flags mean; a benchmark set is packed on first use, by one process for all.

    Raises:
        InvalidInput: there is none.
    """
    if data is not None or dataset.lower() not in BENCHMARK_SETS:
        return locate(dataset, data)
    failure = None
    if rank() == 0:
        try:
            if not is_packed(dataset, data_root):
                print(f"packing {benchmark_folder(dataset, data_root)}, this once …", file=sys.stderr, flush=True)
            packed_benchmark_set(dataset, data_root)
        except InvalidInput as error:  # the others must hear of it, or they wait for ever
            failure = str(error)
    if dist.is_initialized():
        said = [failure]
        dist.broadcast_object_list(said)
        failure = said[0]
    if failure is not None:
        raise InvalidInput(failure)
    return packed_benchmark_set(dataset, data_root)


def say(line: str) -> None:
    """Print a line; of several processes the first one's."""
    if rank() == 0:
        print(line, flush=True)


def say_metrics(title: str, metrics: dict[str, float]) -> None:
    """Two lines under a title: the metrics' short names over their values."""
    say(f"\n{title}\n" + "  ".join(f"{heading(name):>7}" for name in metrics))
    say("  ".join(f"{value:7.4f}" for value in metrics.values()))
