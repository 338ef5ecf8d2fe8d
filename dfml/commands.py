"""What the commands `python -m dfml.train` and `python -m dfml.evaluate` share."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from dfml.data.benchmark_sets import BENCHMARK_SETS, packed_benchmark_set
from dfml.data.datasets import locate
from dfml.distributed import rank
from dfml.errors import InvalidInput


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


def print_metrics(title: str, metrics: dict[str, float]) -> None:
    """Two lines: the metrics' short names over their values."""
    names = [
        name.replace("recall_at_", "R@").replace("r_precision", "RP").replace("map_at_r", "MAP@R") for name in metrics
    ]
    names = [name.upper() if name in ("nmi", "f1") else name for name in names]
    print(f"\n{title}\n" + "  ".join(f"{name:>7}" for name in names))
    print("  ".join(f"{value:7.4f}" for value in metrics.values()), flush=True)
