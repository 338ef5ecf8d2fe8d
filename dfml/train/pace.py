"""Throughput of an epoch: images per second, the time spent waiting for them, and GPU memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dfml.data.streaming.loader import Batch
from dfml.distributed import max_over_ranks, sum_over_ranks


class ThroughputMeter:
    """Measure an epoch, or the rest of a resumed one. Create one at its start.

    Args:
        device: the device of this rank.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()
        self._waited = 0.0  # seconds
        self._images = 0  # of this rank
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, and add up the time spent waiting for them (0 workers: building them)."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            self._images += len(batch[0])
            yield batch

    def metrics(self) -> dict[str, float]:
        """Return the epoch's metrics over all ranks, which must all call it after the last step.

        Returns:
            `images_per_second`; `data_wait_seconds`: the longest wait of any rank; and, on GPUs
            only, `gpu_memory_bytes`: the peak memory of tensors on any rank.
        """
        seconds = time.perf_counter() - self._began
        peak = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        images = sum_over_ranks(self._values(self._images)).item()
        seconds, waited, memory = max_over_ranks(self._values(seconds, self._waited, peak)).tolist()
        return {
            "images_per_second": images / seconds,
            "data_wait_seconds": waited,
            **({"gpu_memory_bytes": memory} if peak else {}),
        }

    def _values(self, *values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._device)
