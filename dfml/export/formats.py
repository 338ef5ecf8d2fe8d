"""The formats of an exported model, each with functions that write it and load it to run."""

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

# Key of the description in ONNX's metadata_props; with .json appended, its name among a .pt2's
# extra files.
KEY = "dfml"
# Not 1, which torch.export treats as a constant.
TRACED_BATCH = 2

Run = Callable[[Tensor], Tensor]  # images (B, 3, H, W) to the model's output


class Format(NamedTuple):
    """A format of exported models.

    Attributes:
        ending: the extension of its files.
        packages: the packages that it needs in addition to torch.
        write: the function that writes a model, given an example input (B, 3, H, W) and a
            description.
        read: the function that loads a file and returns a function that runs it.
    """

    ending: str
    packages: tuple[str, ...]
    write: Callable[[Exportable, Tensor, dict[str, Any], Path], None]
    read: Callable[[Path], Run]


def require_packages(name: str) -> None:
    """Check that a format's packages are installed.

    Raises:
        InvalidInput: one isn't.
    """
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InvalidInput(
                f"--format {name} needs the package {package}; run pip install '.[export]' in the project's folder"
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
    # Only the older exporter (dynamo=False) returns None.
    assert program is not None
    program.model.metadata_props[KEY] = json.dumps(description)
    program.save(file, external_data=False)


def read_onnx(file: Path) -> Run:
    session = importlib.import_module("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def write_torch_export(model: Exportable, example: Tensor, description: dict[str, Any], file: Path) -> None:
    with exporting():
        program = torch.export.export(model, (example,), dynamic_shapes={INPUT: {0: Dim("batch")}})
    # Saved to memory, because torch rejects file names that don't end in .pt2, as a partial file's.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={f"{KEY}.json": json.dumps(description)})
    file.write_bytes(content.getbuffer())


def read_torch_export(file: Path) -> Run:
    run: Run = torch.export.load(io.BytesIO(file.read_bytes())).module()
    return run


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Silence the exporters' warnings and disable torch.compile while exporting or comparing.

    A recipe may compile its blocks; that can't be exported, and is slow for a comparison.
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
