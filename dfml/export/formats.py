"""The formats of an exported model: how each is written, and run again, by its own runtime."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim

from dfml.errors import InvalidInput
from dfml.export.exportable import INPUT, Exportable

KEY = "dfml"  # of the description: in ONNX's metadata_props, and with .json among .pt2's extra files
TRACED_BATCH = 2  # not 1, which is taken for a constant

Run = Callable[[Tensor], Tensor]  # images (B, 3, H, W) to the model's output


class Format(NamedTuple):
    """One format.

    Attributes:
        ending: of its files.
        packages: that it needs beside torch.
        write: the model, an example (B, 3, H, W) and the description to a file.
        read: a file to what runs it.
    """

    ending: str
    packages: tuple[str, ...]
    write: Callable[[Exportable, Tensor, dict[str, Any], Path], None]
    read: Callable[[Path], Run]


def require_packages(name: str) -> None:
    """See that a format's packages are there.

    Raises:
        InvalidInput: one isn't.
    """
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InvalidInput(
                f"--format {name} needs the package {package}: pip install '.[export]' in the project's folder"
            ) from error


def write_onnx(model: Exportable, example: Tensor, description: dict[str, Any], file: Path) -> None:
    with exporting():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[INPUT],
            output_names=[model.output],
            dynamic_shapes={INPUT: {0: Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is for the older exporter only
    program.model.metadata_props[KEY] = json.dumps(description)
    program.save(file, external_data=False)


def read_onnx(file: Path) -> Run:
    session = importlib.import_module("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def write_torch_export(model: Exportable, example: Tensor, description: dict[str, Any], file: Path) -> None:
    with exporting():
        program = torch.export.export(model, (example,), dynamic_shapes={INPUT: {0: Dim("batch")}})
    content = io.BytesIO()  # by a file's name torch also insists on its ending, which one that isn't finished hasn't
    torch.export.save(program, content, extra_files={f"{KEY}.json": json.dumps(description)})
    file.write_bytes(content.getbuffer())


def read_torch_export(file: Path) -> Run:
    run: Run = torch.export.load(io.BytesIO(file.read_bytes())).module()
    return run


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """For writing a file and comparing it with the model, without the exporters' own remarks, which aren't for users.

    A recipe may have its blocks compiled: a graph can't hold that, and for a comparison it takes longer than all else.
    """
    levels = {
        logging.getLogger(name): logging.getLogger(name).level for name in ("onnxscript", "onnx_ir", "torch.onnx")
    }
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxruntime", "onnxscript"), write_onnx, read_onnx),
    "torch-export": Format(".pt2", (), write_torch_export, read_torch_export),
}
