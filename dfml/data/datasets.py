"""What is known of a data set by its name: its location, recipe and metrics."""

from __future__ import annotations

import os
from pathlib import Path

from dfml import storage
from dfml.data.format.manifest import is_packed
from dfml.data.packing.readers import BENCHMARK_SETS
from dfml.errors import InvalidInput
from dfml.recipe import Recipe, recipe_from

REPOSITORY = Path(__file__).resolve().parents[2]
DATA_VARIABLE = "DFML_DATA"
# The folder into which `dfml.train` packs the benchmark sets.
PACKED = Path("data") / "packed"

# The packed data sets that ship with the project.
SHIPPED: dict[str, Path] = {"emoji": REPOSITORY / "datasets" / "emoji"}


def locate(dataset: str, data: str | None) -> str:
    """Return the location of a packed data set: `data` if given, else a known location.

    Known locations: the project itself, `DFML_DATA` (a folder or an `s3://` URI) and `data/packed`.

    Raises:
        InvalidInput: the data set is in none of them.
    """
    if data is not None:
        return storage.absolute(data)
    if dataset in SHIPPED:
        return str(SHIPPED[dataset])
    uris = [*_in_variable(dataset), storage.absolute(storage.join(str(PACKED), dataset.lower()))]
    for uri in uris:
        if is_packed(uri):
            return uri
    if dataset.lower() not in BENCHMARK_SETS:
        raise InvalidInput(
            f"unknown data set {dataset!r}; name one of {', '.join([*SHIPPED, *BENCHMARK_SETS])}, or give the "
            "location of your packed images with --data"
        )
    raise InvalidInput(
        f"{dataset} isn't packed at {' or '.join(uris)}; pack it with `python -m dfml.data pack --dataset {dataset} "
        f"--root DIR --out {uris[0]}`, or give its location with --data"
    )


def found_in_variable(dataset: str) -> str | None:
    """Return the location of a packed data set in `DFML_DATA`; None if it isn't there."""
    return next((uri for uri in _in_variable(dataset) if is_packed(uri)), None)


def _in_variable(dataset: str) -> list[str]:
    root = os.environ.get(DATA_VARIABLE)
    return [storage.absolute(storage.join(root, dataset.lower()))] if root else []


def recall_at(dataset: str) -> tuple[int, ...]:
    """Return the K of R@K that papers report for a data set; 1, 2, 4, 8 if it is unknown."""
    known = BENCHMARK_SETS.get(dataset.lower())
    return known.recall_at if known else (1, 2, 4, 8)


def published_recipe(dataset: str) -> Recipe | None:
    """Return the publication's recipe for a data set; None if it has none."""
    known = BENCHMARK_SETS.get(dataset.lower())
    return None if known is None or known.recipe is None else recipe_from(known.recipe)
