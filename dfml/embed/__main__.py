"""`python -m dfml.embed`: embed all images of a folder into a file for `python -m dfml.search`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dfml import storage
from dfml.command_line import INTERRUPTED, Parser, check_out, count, exit_code
from dfml.data.packing.progress import ImagesDone
from dfml.embed.embedding import Bad, Embedded, embed_folder
from dfml.embed.folder import images_below
from dfml.embed.index_file import Facts, write_index
from dfml.errors import InvalidInput
from dfml.saved_model import load_with_sha256


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m dfml.embed", description=__doc__)
    add = made.add_argument
    add(
        "--model",
        required=True,
        metavar="URI",
        help="the best/ folder of a sweep or a run, or its s3:// URI; for a classifier, the input features of its "
        "last layer are the embeddings",
    )
    add(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the images, searched with all folders below it except links",
    )
    add(
        "--out",
        required=True,
        metavar="FILE-or-S3",
        help="the Parquet file: columns path (relative to DIR) and embedding (L2-normalized float32); replaced if it "
        "exists",
    )
    add(
        "--path",
        choices=("full", "routed"),
        help="use all sub-blocks (full) or the chosen ones (routed) (default: the model's recipe)",
    )
    add(
        "--batch-size",
        type=count,
        default=64,
        metavar="N",
        help="images per batch; a larger batch takes more memory and isn't faster on a CPU",
    )
    add("--skip-bad", action="store_true", help="leave out images that can't be decoded, and print their names")
    return made


def embed(arguments: argparse.Namespace) -> None:
    root: Path = arguments.images.expanduser().absolute()
    out = storage.absolute(arguments.out)
    check_out(out, example="embeddings.parquet")
    paths = images_below(root)
    model, sha256 = load_with_sha256(arguments.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    path = arguments.path or model.recipe.inference
    facts = Facts(images=str(root), model=storage.absolute(arguments.model), model_sha256=sha256, inference=path)
    bad: list[Bad] = []
    began = time.monotonic()
    with ImagesDone("embedding") as progress:
        batches = embed_folder(model, root, paths, path, arguments.batch_size)
        good = _good(batches, bad, arguments.skip_bad, lambda done: progress(done, len(paths)))
        rows = write_index(out, facts, model.embedding_size, good)
    for image in bad:
        print(f"left out: {image.path} ({image.reason})", file=sys.stderr)
    if bad:
        print(f"left out {len(bad):,} of {len(paths):,} images, which can't be decoded", file=sys.stderr)
    rate = rows / (time.monotonic() - began)
    print(
        f"{rows:,} images embedded into {out} ({model.embedding_size} numbers each, {path} path), {rate:,.0f} images/s"
    )


def _good(
    batches: Iterator[Embedded], bad: list[Bad], skip_bad: bool, progress: Callable[[int], None]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the paths and embeddings of each batch, and add images that can't be decoded to `bad`.

    Raises:
        InvalidInput: an image can't be decoded, and `skip_bad` isn't set.
    """
    done = 0
    for batch in batches:
        if batch.bad and not skip_bad:
            first = batch.bad[0]
            raise InvalidInput(
                f"{first.path} can't be decoded ({first.reason}); fix or remove it, or leave out images that can't be "
                "decoded with --skip-bad"
            )
        bad += batch.bad
        done += len(batch.paths) + len(batch.bad)
        progress(done)
        yield batch.paths, batch.embeddings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for unusable input, 130 after Ctrl-C."""

    def work() -> int | None:
        try:
            embed(parser().parse_args(argv))
        except KeyboardInterrupt:
            print("stopped; nothing was written", file=sys.stderr)
            return INTERRUPTED
        return None

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
