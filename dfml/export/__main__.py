"""`python -m dfml.export`: write a model's full path as ONNX or torch.export and check it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from dfml import storage
from dfml.command_line import Parser, check_out, exit_code
from dfml.errors import InvalidInput
from dfml.export.exportable import Exportable, description
from dfml.export.formats import FORMATS, TRACED_BATCH, exporting, require_packages
from dfml.export.parity import BATCHES, TOLERANCE, largest_difference
from dfml.saved_model import load_with_sha256


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m dfml.export", description=__doc__)
    add = made.add_argument
    add("--model", required=True, metavar="URI", help="the best/ folder of a sweep or a run, or its s3:// URI")
    add(
        "--format",
        choices=tuple(FORMATS),
        default="onnx",
        help="onnx needs pip install '.[export]'; torch-export is a .pt2 for torch.export.load",
    )
    add("--out", metavar="FILE-or-S3", help="the file; replaced if it exists (default: model.onnx or model.pt2)")
    made.epilog = (
        "Input: float32 images (batch, 3, pixels, pixels), any batch size, resized, cropped and normalized as "
        "described in the file's metadata under \"dfml\". Output: L2-normalized embeddings, or a classifier's "
        "probabilities."
    )
    return made


def export(arguments: argparse.Namespace) -> None:
    chosen = FORMATS[arguments.format]
    out = storage.absolute(arguments.out or f"model{chosen.ending}")
    if not out.endswith(chosen.ending):
        raise InvalidInput(
            f"--out {arguments.out} isn't the name of a {arguments.format} file; end it in {chosen.ending}"
        )
    require_packages(arguments.format)
    check_out(out, example=f"model{chosen.ending}")
    model, sha256 = load_with_sha256(arguments.model)
    exportable = Exportable(model).eval()
    said = description(exportable, sha256)
    size = said["preprocessing"]["center_crop"]
    with storage.writing(out) as partial:
        chosen.write(exportable, torch.zeros(TRACED_BATCH, 3, size, size), said, partial)
        with exporting():
            difference = largest_difference(exportable, chosen.read(partial), size)
        if not difference <= TOLERANCE:
            raise InvalidInput(
                f"the exported model differs from {arguments.model} by up to {difference:.1e}, more than "
                f"{TOLERANCE:.0e}, so {out} wasn't written; use the model through dfml.load, or try the other --format"
            )
    if model.recipe.inference == "routed":
        print(
            "note: this model's recipe uses the routed path, whose shapes depend on the images; the full path is "
            "exported instead",
            file=sys.stderr,
        )
    print(json.dumps(said))
    batches = " and ".join(map(str, BATCHES))
    print(f"exported to {out}; largest difference from the model {difference:.1e} (batches of {batches})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for unusable input."""
    return exit_code(lambda: export(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
