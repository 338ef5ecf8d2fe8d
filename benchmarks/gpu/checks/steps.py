"""What a training step costs beside the dense model's."""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.gpu.bars import BARS
from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import Run, compare_with_dense, median_seconds, seconds_of, take_turns, tf32
from benchmarks.gpu.models import BASE, CNN, SMALL, images_for
from benchmarks.gpu.profiling import report_kernels
from benchmarks.gpu.training_step import OTHER, peak_memory, variants

# A profile, or another variant, isn't begun with fewer seconds left.
LEAST_SECONDS = 8


def check_small_steps(context: Context) -> None:
    """Measure the steps of ViT-S."""
    _Steps(context, context.sizes.small, SMALL).check(("bf16", "tf32", "fp32"))


def check_base_steps(context: Context) -> None:
    """Measure the steps of ViT-B."""
    _Steps(context, context.sizes.base, BASE).check(("bf16", "tf32"))


def check_cnn_steps(context: Context) -> None:
    """Measure the steps of ResNet-50."""
    _Steps(context, context.sizes.cnn, CNN).check(("bf16", "tf32"))


class _Steps:
    """Steps of one model: dense, exact, sparse, and exact in the other design.

    Args:
        name: timm's name of the model.
        title: its name in figures.
    """

    def __init__(self, context: Context, name: str, title: str) -> None:
        context.wait_for_quiet()
        self.context, self.report = context, context.report
        self.name, self.title = name, title
        self.dense, self.ours, self.runs = variants(name, context.sizes, context.device)

    def check(self, precisions: tuple[str, ...]) -> None:
        """Measure time, memory, and what the GPU does meanwhile."""
        context = self.context
        began, whole = time.monotonic(), context.seconds_left()
        self.report.figure(f"{self.title}, the first exact step", seconds_of(self.runs["exact"]), "s")
        if context.cuda:
            torch.cuda.empty_cache()
        for number, precision in enumerate(precisions, start=1):
            self._set_precision(precision)
            with tf32(precision != "fp32", True):
                self._check_precision(precision, began + 0.9 * whole * number / len(precisions))
        if not context.cuda:
            return
        if self.title == SMALL and context.seconds_left() > LEAST_SECONDS:
            self._check_options()
        ratio = torch.cuda.max_memory_reserved() / max(1, torch.cuda.max_memory_allocated())
        self.report.figure(f"{self.title}, memory held by torch's allocator × allocated at the peak", ratio)
        torch.cuda.empty_cache()

    def _check_precision(self, precision: str, until: float) -> None:
        title = f"{self.title} {precision}"
        runs = self._fitting_runs(title)
        if "dense" not in runs:
            return
        found = take_turns(runs, self.context.sizes, until)
        compare_with_dense(self.report, title, found, self.context.sizes.batch)
        if precision == "bf16" and "exact" in runs:
            self._check_new_images(title, found["exact"])
        if not self.context.cuda:
            self.report.skip(f"{title}, memory, kernels and how long the GPU computes", "there is no GPU")
            return
        self._check_memory(title, runs)
        if precision == "bf16":
            self._check_kernels(title, runs)

    def _set_precision(self, name: str) -> None:
        for step in (self.dense, self.ours):
            step.set_precision(name)

    def _fitting_runs(self, title: str) -> dict[str, Run]:
        """Return the runs for which the GPU has enough memory."""
        fitting = {}
        for each, run in self.runs.items():
            try:
                run()
                fitting[each] = run
            except torch.OutOfMemoryError as error:
                self.report.skip(f"{title}, {each}", f"out of memory: {str(error)[:120]}")
                torch.cuda.empty_cache()
        return fitting

    def _check_new_images(self, title: str, seconds: list[float]) -> None:
        """Report how evenly routers divide, and whether steps on new images take longer.

        The sub-blocks' parts of the batch then change in size, and libraries may plan again.
        """
        tokens = self.ours.module.routing.tokens
        share = float((tokens.max(1).values / tokens.sum(1)).mean())
        self.report.figure(f"{self.title}, share of a router's largest sub-block, mean", share)
        same, fresh = self.ours.images, []
        for seed in range(2, 10 if self.context.cuda else 4):
            self.ours.images = images_for(self.name, len(same), same.shape[-1], self.context.device, seed)
            fresh.append(seconds_of(self.runs["exact"]))
        self.ours.images = same
        ratio = statistics.median(fresh) / statistics.median(seconds)
        self.report.figure(f"{title}, exact, new images in each step × the same ones", ratio)

    def _check_memory(self, title: str, runs: dict[str, Run]) -> None:
        held = {each: peak_memory(run, self.dense if each == "dense" else self.ours) for each, run in runs.items()}
        for each, peak in held.items():
            self.report.figure(f"{title}, {each}, peak memory", peak / 1e9, "GB")
            if each != "dense":
                bar = f"{each} memory × dense" if f"{each} memory × dense" in BARS else None
                self.report.figure(f"{title}, {each} memory × dense", peak / held["dense"], most=bar, speed=True)

    def _check_kernels(self, title: str, runs: dict[str, Run]) -> None:
        for each in ("exact", OTHER, "dense", "sparse") if self.title == SMALL else ("exact", OTHER):
            if each in runs and self.context.seconds_left() > LEAST_SECONDS:
                try:
                    report_kernels(self.report, f"{title}, {each}", runs[each], busy_bar=each == "exact")
                # The profiler needs a right that some containers lack.
                except Exception as error:
                    self.report.skip(f"{title}, {each}, profile", f"{type(error).__name__}: {error}"[:200])

    def _check_options(self) -> None:
        """Report time and memory with the options that save memory."""
        self._set_precision("bf16")
        run, model = self.runs["exact"], self.ours.module.model
        exact = median_seconds(run, 3)
        for option, checkpointing, parts in (
            ("activation checkpointing", True, 1),
            ("gradient accumulation of 4", False, 4),
        ):
            model.backbone.checkpointing = checkpointing
            model.recipe = self.ours.recipe.model_copy(update={"gradient_accumulation": parts})
            run()
            self.report.figure(f"{self.title} bf16, {option}, × exact", median_seconds(run, 3) / exact)
            self.report.figure(f"{self.title} bf16, {option}, peak memory", peak_memory(run, self.ours) / 1e9, "GB")
