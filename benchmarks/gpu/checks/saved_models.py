"""What is done with a saved model: `python -m dfml.embed` and `python -m dfml.export`."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.measure import tf32
from benchmarks.gpu.models import LITE, noise, saved_model
from dfml.saved_model import load


def check_embed(context: Context) -> None:
    """Embed a folder of photographs."""
    model = _small_model(context)
    context.packed_photos()
    photos, out = context.work / "photos", context.work / "embeddings.parquet"
    output = context.command("-m", "dfml.embed", "--model", model, "--images", photos, "--out", out)
    rate = float(re.search(r"([\d,]+) images/s", output)[1].replace(",", ""))
    context.report.figure("the command's own figure", rate, "images/s", least="embed", speed=True)


def check_export(context: Context) -> None:
    """Check that exported models compute the same.

    Both formats on the CPU, and the program of torch.export on the GPU too.
    """
    model = _small_model(context)
    cnn = saved_model(context.work / f"model-{LITE}", LITE, 64)
    program = context.work / "exported.pt2"
    exports = (("torch-export", model, program), ("onnx", cnn, context.work / "exported.onnx"))

    def export(kind: str, place: Path, file: Path) -> str:
        return context.command("-m", "dfml.export", "--model", place, "--format", kind, "--out", file)

    with ThreadPoolExecutor() as pool:
        running = {kind: pool.submit(export, kind, place, file) for kind, place, file in exports}
        for kind, future in running.items():
            output = future.result()
            context.report.raw[f"export {kind}"] = output
            error = float(re.search(r"from the model ([\d.e+-]+)", output)[1])
            context.report.figure(f"{kind}, largest difference", error, most="export")
    if context.cuda:
        _check_program(context, model, program)
    else:
        context.report.skip("torch-export on the GPU", "there is none")


def _check_program(context: Context, model: Path, file: Path) -> None:
    from torch.export.passes import move_to_device_pass

    program = move_to_device_pass(torch.export.load(str(file)), str(context.device)).module()
    ours = load(model).to(context.device)
    images = noise(5, context.sizes.image, context.device)
    with torch.inference_mode(), tf32(False):
        error = float((program(images) - ours(images, "full")).abs().max())
    context.report.figure("torch-export on the GPU, largest difference", error, most="export")


def _small_model(context: Context) -> Path:
    name = context.sizes.small
    return saved_model(context.work / f"model-{name}", name, context.sizes.image)
