"""`python -m dfml.search`: find, print and draw the images of an index most similar to queries."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from dfml import storage
from dfml.command_line import Parser, check_out, count, exit_code
from dfml.embed.folder import Undecodable, read_image
from dfml.embed.index_file import open_index
from dfml.errors import InvalidInput
from dfml.saved_model import load_with_sha256
from dfml.search.nearest import Match, nearest_in
from dfml.search.picture import is_itself, search_picture


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m dfml.search", description=__doc__)
    add = made.add_argument
    add("--model", required=True, metavar="URI", help="the model that made the index: a best/ folder or its s3:// URI")
    add(
        "--index",
        required=True,
        metavar="FILE-or-S3",
        help="the file that python -m dfml.embed wrote; queries use the same path of the model",
    )
    add(
        "--query",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="IMG",
        help="images to search for; a query that is itself in the index is marked",
    )
    add("--top", type=count, default=10, metavar="N", help="number of images to find per query")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="the folder of the index's images now (default: the folder from which they were embedded)",
    )
    add("--out", default="search.png", metavar="PNG-or-S3", help="the picture; replaced if it exists")
    return made


def search(arguments: argparse.Namespace) -> None:
    out = storage.absolute(arguments.out)
    if not out.lower().endswith(".png"):
        raise InvalidInput(f"--out {out} isn't the name of a PNG file; end it in .png")
    check_out(out, example="search.png")
    queries = [(file, _read_query(file)) for file in arguments.query]
    model, sha256 = load_with_sha256(arguments.model)
    with open_index(arguments.index) as index:
        facts = index.facts
        if facts.model_sha256 != sha256:
            raise InvalidInput(
                f"--index {arguments.index} was made by another model ({facts.model}, "
                f"SHA-256 {facts.model_sha256[:12]}) than {arguments.model} (SHA-256 {sha256[:12]}); "
                "name that model, or embed the images again with this one"
            )
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        embeddings = model.embed([image for _, image in queries], facts.inference)
        matches = nearest_in(index.blocks(), embeddings, arguments.top)
        rows = index.rows
    root: Path = Path(facts.images) if arguments.images is None else arguments.images.expanduser().absolute()
    # A file's name may contain brackets and colons.
    console = Console(highlight=False, markup=False, emoji=False)
    for (file, _), found in zip(queries, matches, strict=True):
        console.print(_table(file, found, root))
    picture = io.BytesIO()
    search_picture(queries, matches, root).save(picture, "PNG")
    storage.write(out, picture.getvalue())
    print(f"{len(queries)} image(s) searched for among {rows:,} ({facts.inference} path); drawn to {out}")


def _read_query(file: Path) -> Image.Image:
    try:
        return read_image(file)
    except Undecodable as error:
        raise InvalidInput(f"--query {file} can't be decoded ({error}); fix it, or give another image") from error


def _table(query: Path, found: Sequence[Match], root: Path) -> Table:
    table = Table(title=f"nearest to {query}", title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("path", overflow="fold")
    for rank, match in enumerate(found, start=1):
        mark = "  (the query itself)" if is_itself(root, match, query) else ""
        table.add_row(str(rank), f"{match.cosine:.3f}", match.path + mark)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for unusable input."""
    return exit_code(lambda: search(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
