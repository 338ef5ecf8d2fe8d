"""What a step does beside taking time: operators, waits for the GPU, kernels, memory."""

from __future__ import annotations

import collections
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.context import ROOT
from benchmarks.gpu.measure import Run, seconds_of
from benchmarks.gpu.report import Report

# Operators that only look at memory in another way, or reserve it.
NO_WORK = (
    "view",
    "_unsafe_view",
    "_reshape_alias",
    "reshape",
    "expand",
    "transpose",
    "permute",
    "slice",
    "select",
    "split",
    "chunk",
    "alias",
    "unsqueeze",
    "squeeze",
    "detach",
    "t.",
    "as_strided",
    "unbind",
    "empty",
    "new_empty",
    "lift_fresh",
    "unfold",
)
SLOWEST_KERNELS = 15


class OperatorCounter(TorchDispatchMode):
    """Count the calls of torch's operators that compute: on a GPU about one kernel each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not str(function).split("aten.")[-1].startswith(NO_WORK):
            self.count += 1
        return function(*args, **(kwargs or {}))


def waits(run: Run) -> collections.Counter[str]:
    """Return how often the host waits for the GPU in `run`, by file and line."""
    places: collections.Counter[str] = collections.Counter()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchroniz" in str(warning.message).lower():
            file = Path(warning.filename)
            name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else "/".join(file.parts[-3:])
            places[f"{name}:{warning.lineno}"] += 1
    return places


def report_kernels(report: Report, title: str, run: Run, busy_bar: bool) -> None:
    """Report how long the GPU computes in `run`, in how many kernels, and which take longest.

    Args:
        busy_bar: whether the GPU's share of the time is held against its bar.
    """
    from torch.profiler import ProfilerActivity, profile

    plain = statistics.median(seconds_of(run) for _ in range(3))
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    kernels = [
        event for event in profiler.events() if str(event.device_type).endswith("CUDA") and event.device_time_total > 0
    ]
    busy = sum(event.device_time_total for event in kernels) / 1e6
    by_name: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])
    for event in kernels:
        by_name[event.name[:100]][0] += 1
        by_name[event.name[:100]][1] += event.device_time_total / 1000
    report.figure(f"{title}, GPU computes", 1000 * busy, "ms")
    report.figure(f"{title}, kernels", len(kernels))
    share, bar = min(busy / plain, 9.99), "busy" if busy_bar else None
    report.figure(f"{title}, GPU computes, share of the step", share, least=bar, speed=True)
    slowest = sorted(by_name.items(), key=lambda item: -item[1][1])[:SLOWEST_KERNELS]
    report.raw[f"{report.check} {title} kernels, how often, ms"] = [[name, *found] for name, found in slowest]
