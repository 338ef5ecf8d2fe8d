"""`python -m dfml.train` as a user runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.gpu.context import Context
from benchmarks.gpu.models import LITE, SMALL

MOST_EMOJI_WORKERS = 8


def check_train_photos(context: Context) -> None:
    """Train ViT-S in bfloat16 on photographs, with loaders on all cores."""
    sizes, out = context.sizes, context.work / "run-photos"
    flags = [
        *("--dataset", "photos", "--data", context.packed_photos(), "--out", out),
        *("--model", sizes.small, "--readpath", "random", "--image-size", sizes.image),
        *("--warm", 1, "--workers", context.cores, "--set", "precision=bfloat16"),
        *sizes.photo_flags.split(),
    ]
    began = time.monotonic()
    context.command("-m", "dfml.train", *flags)
    context.report.figure("the whole command", time.monotonic() - began, "s")
    figures = _last_epoch(out)
    _report_epoch(context, figures)
    step = context.report.value(f"steps_small.{SMALL} bf16, exact, images/s")
    if step:
        share = figures["images_per_second"] / step
        context.report.figure("images/s of the loop, of the bare step's", share, least="loop of step", speed=True)


def check_train_emoji(context: Context) -> None:
    """Train on the emoji under torchrun with one process: on a GPU, in a process group of NCCL."""
    out = context.work / "run-emoji"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 1)
    flags = [
        *("--dataset", "emoji", "--out", out, "--model", LITE),
        *("--epochs", 2, "--warm", 1, "--lr", "3e-4", "--workers", min(MOST_EMOJI_WORKERS, context.cores)),
        *("--set", "test_crop=1.0", "--set", "crop_scale=0.5", "--set", "horizontal_flip=false"),
        *context.sizes.emoji_flags.split(),
    ]
    output = context.command(*torchrun, "-m", "dfml.train", *flags)
    figures = _last_epoch(out)
    _report_epoch(context, figures)
    context.report.figure("validation R@1", figures["recall_at_1"])
    context.report.note("what it says of the test", output.strip().splitlines()[-3:-1])


def _last_epoch(run: Path) -> dict[str, float]:
    return json.loads((run / "epochs.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def _report_epoch(context: Context, figures: dict[str, float]) -> None:
    report = context.report
    report.figure("images/s", figures["images_per_second"])
    share = figures["data_wait_seconds"] / figures["train_seconds"]
    report.figure("waiting for data, share of training", share, most="data wait", speed=True)
    report.figure("an epoch's training", figures["train_seconds"], "s")
    report.figure("an epoch's validation", figures["validation_seconds"], "s")
    if context.cuda:
        report.figure("GPU memory", figures["gpu_memory_bytes"] / 1e9, "GB")
    for name in ("loss", "router_entropy", "routers_collapsed"):
        report.figure(name, figures[name])
    report.raw[f"{report.check} last epoch"] = figures
