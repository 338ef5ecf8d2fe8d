"""torch.compile changes no gradient; what it costs and gains, and where it gives up."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.gradients import as_one, gradients
from benchmarks.gpu.measure import Run, compare_with_dense, relative_error, seconds_of, take_turns, tf32
from benchmarks.gpu.models import LITE, SMALL, labels_for, noise, objective_of, placed, recipe_of
from benchmarks.gpu.report import Report
from benchmarks.gpu.training_step import TrainingStep, variants

# Of all turns together.
SECONDS = 15
# The dense step isn't compiled with fewer seconds left.
SECONDS_TO_COMPILE_DENSE = 30


def check_compile(context: Context) -> None:
    """Check that compiled steps have the same loss and gradients, time them, and count graphs."""
    with _Graphs(context.report) as graphs:
        _check_gradients(context)
        graphs.report(f"{SMALL} float32")
        _check_speed(context)
        graphs.report(f"{SMALL} bf16")
        for name in (context.sizes.cnn, LITE):
            graphs.restart()
            _compile_without_code(context, name)
            graphs.report(f"{name}, a step and an evaluation")


def _check_gradients(context: Context) -> None:
    image, batch = (context.sizes.image, 8) if context.cuda else (32, 3)
    values = {"embedding_reconstruction": 0.5, "stream_reconstruction": 0.05}
    images, labels = noise(batch, image, context.device), labels_for(batch, context.device)
    name = context.sizes.small
    plain = placed(objective_of(recipe_of(name, image, **values)), context.device)
    compiled = placed(objective_of(recipe_of(name, image, **values, compile=True)), context.device)
    with tf32(False):
        loss, truth = gradients(plain, images, labels)
        given_loss, given = gradients(compiled, images, labels)
    context.report.figure("loss, float32", abs(given_loss - loss) / abs(loss), most="float32")
    error = relative_error(as_one(given), as_one(truth))
    context.report.figure("all gradients as one, float32", error, most="gradients float32")


def _check_speed(context: Context) -> None:
    report, sizes = context.report, context.sizes
    dense, ours, runs = variants(sizes.small, sizes, context.device)
    compiled = TrainingStep(sizes.small, sizes, context.device, compile=True)
    for step in (dense, ours, compiled):
        step.set_precision("bf16")
    report.figure("the first compiled step", seconds_of(compiled), "s")
    compared: dict[str, Run] = {"dense": dense, "exact": runs["exact"], "exact, compiled": compiled}
    if context.seconds_left() > SECONDS_TO_COMPILE_DENSE:
        compared["dense, compiled"] = _compiled_dense_step(context)
    found = take_turns(compared, sizes, time.monotonic() + SECONDS)
    compare_with_dense(report, f"{SMALL} bf16", found, sizes.batch, bars=False)
    ratios = [a / b for a, b in zip(found["exact, compiled"], found["exact"], strict=True)]
    report.figure("exact, compiled × uncompiled", statistics.median(ratios), most="compile", speed=True)


def _compiled_dense_step(context: Context) -> TrainingStep:
    step = TrainingStep(context.sizes.small, context.sizes, context.device, dense=True)
    step.set_precision("bf16")
    # As the project compiles: block by block, so that blocks share their graphs.
    for block in step.module["backbone"].blocks:
        block.compile()
    step()
    return step


def _compile_without_code(context: Context, name: str) -> None:
    """Let torch find the graphs of a step and an evaluation, without code for them."""
    with patch.object(torch, "compile", partial(torch.compile, backend="eager")):
        objective = placed(objective_of(recipe_of(name, 64, compile=True)), context.device)
        gradients(objective, noise(4, 64, context.device), labels_for(4, context.device))
        with torch.inference_mode():
            objective.eval().model(noise(3, 64, context.device))


class _Graphs(contextlib.AbstractContextManager["_Graphs"]):
    """Count the graphs that torch compiles, and how often it gives up at its limit."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._handler = _LimitHandler()

    def __enter__(self) -> _Graphs:
        logging.getLogger("torch._dynamo").addHandler(self._handler)
        self.restart()
        return self

    def __exit__(self, *error: Any) -> None:
        logging.getLogger("torch._dynamo").removeHandler(self._handler)
        self.restart()

    def restart(self) -> None:
        """Forget all graphs."""
        import torch._dynamo as dynamo

        dynamo.reset()
        dynamo.utils.counters.clear()

    def report(self, title: str) -> None:
        """Report the counts since the last call."""
        import torch._dynamo as dynamo

        count = dynamo.utils.counters["stats"].get("unique_graphs", 0)
        self._report.figure(f"{title}, graphs", count)
        self._report.figure(f"{title}, times that torch gave up compiling more", len(self._handler.messages))
        self._report.raw[f"compile {title} gave up"] = list(self._handler.messages)
        self._handler.messages.clear()
        dynamo.utils.counters.clear()


class _LimitHandler(logging.Handler):
    """Keep the messages about a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "limit" in record.getMessage():
            self.messages.append(record.getMessage()[:200])
