"""Seconds, and differences between tensors."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu.bars import BARS
from benchmarks.gpu.report import Report
from benchmarks.gpu.sizes import Sizes

Run = Callable[[], object]


def sync() -> None:
    """Wait until the GPU has computed everything that it was asked for."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_of(run: Run, calls: int = 1) -> float:
    """Return the seconds per call."""
    sync()
    began = time.perf_counter()
    for _ in range(calls):
        run()
    sync()
    return (time.perf_counter() - began) / calls


def median_seconds(run: Run, times: int, calls: int = 1) -> float:
    """Return the median of the seconds per call."""
    return statistics.median(seconds_of(run, calls) for _ in range(times))


def take_turns(runs: dict[str, Run], sizes: Sizes, until: float, times: int | None = None) -> dict[str, list[float]]:
    """Time all runs in turns, after two calls of each that don't count.

    Args:
        until: the turn in which this time passes, on the monotonic clock, is the last.
        times: turns; `sizes.turns` without it.
    """
    for run in runs.values():
        run()
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(times or sizes.turns):
        for name, run in runs.items():
            found[name].append(seconds_of(run, sizes.calls))
        if time.monotonic() > until:
            break
    return found


def compare_with_dense(
    report: Report, title: str, found: dict[str, list[float]], batch: int, bars: bool = True
) -> None:
    """Report the seconds that `take_turns` found, and each run's ratio to "dense".

    Args:
        batch: images per call.
        bars: whether the ratios are held against bars.
    """
    for name, seconds in found.items():
        median = statistics.median(seconds)
        report.figure(f"{title}, {name}", 1000 * median, "ms")
        report.figure(f"{title}, {name}, images/s", batch / median)
        if name == "dense":
            continue
        ratio = statistics.median(a / b for a, b in zip(seconds, found["dense"], strict=True))
        names = (f"{title}, {name} × dense", f"{name} × dense") if bars else ()
        bar = next((each for each in names if each in BARS), None)
        report.figure(f"{title}, {name} × dense", ratio, most=bar, speed=True)
    report.raw[f"{report.check} {title}"] = found


@contextlib.contextmanager
def tf32(matrices: bool, convolutions: bool | None = None) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products, and in convolutions (by default the same).

    torch's own default is no TF32 in matrix products, but TF32 in convolutions.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = matrices
    torch.backends.cudnn.allow_tf32 = matrices if convolutions is None else convolutions
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def relative_error(a: Tensor, b: Tensor) -> float:
    """Return ‖a − b‖ / ‖b‖, in float64 on the CPU."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def largest_error(a: Tensor, b: Tensor) -> float:
    """Return the largest |a − b| / (1 + |b|): assert_close's measure if rtol = atol."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float(((a - b).abs() / (1 + b.abs())).max())
