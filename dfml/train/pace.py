"""How fast an epoch goes: images a second, the time lost in waiting for them, and the GPU memory it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dfml.data.loader import Batch
from dfml.distributed import max_over_ranks, sum_over_ranks


class Pace:
    """Measures an epoch, or what is left of one, at whose beginning it is made.

    Args:
        device: where this rank computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()
        self._waited = 0.0  # seconds
        self._images = 0  # of this rank
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; how long each is waited for is added up. Where the loader has no processes that is how long it is made."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            self._images += len(batch[0])
            yield batch

    def figures(self) -> dict[str, float]:
        """The epoch's figures over all ranks, which must all call it once, at the end of its steps.

        Returns:
            `images_per_second`; `data_wait_seconds`: of the rank that waited longest; `gpu_memory_bytes`: most that tensors took at
            once, of the rank where that was most; only on GPUs.
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
