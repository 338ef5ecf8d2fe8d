"""Data sets by name: where each one is found when no location is given."""

from __future__ import annotations

import os
from pathlib import Path

from dfml import storage
from dfml.data.manifest import is_packed
from dfml.data.readers import BENCHMARK_SETS
from dfml.errors import InvalidInput

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = "DFML_DATA"
PACKED = Path("data") / "packed"  # where `dfml.train` packs the benchmark sets

# A packed data set that ships with the project is one line here.
DATASETS: dict[str, Path] = {"emoji": REPOSITORY / "datasets" / "emoji"}


def locate(dataset: str, data: str | None) -> str:
    """The place of a packed data set: `data` where it is given, else where `dataset` is known to be.

    That is with the project, below `DFML_DATA` (a folder or an `s3://` URI), or in `data/packed`.

    Raises:
        InvalidInput: it is in none of them.
    """
    if data is not None:
        return storage.absolute(data)
    if dataset in DATASETS:
        return str(DATASETS[dataset])
    roots = [os.environ[ENVIRONMENT]] if os.environ.get(ENVIRONMENT) else []
    places = [storage.absolute(storage.join(root, dataset.lower())) for root in [*roots, str(PACKED)]]
    for place in places:
        if is_packed(place):
            return place
    if dataset.lower() not in BENCHMARK_SETS:
        raise InvalidInput(
            f"unknown data set {dataset!r}: name one of {', '.join([*DATASETS, *BENCHMARK_SETS])}, or say with --data where your "
            "packed images are"
        )
    raise InvalidInput(
        f"{dataset} isn't packed at {' or '.join(places)}: pack it with `python -m dfml.data pack --dataset {dataset} --root DIR "
        f"--out {places[0]}`, or say with --data where it is"
    )


def recall_at(dataset: str) -> tuple[int, ...]:
    """The K of R@K that papers report for a data set, by its name in any case; 1, 2, 4, 8 where it isn't known."""
    known = BENCHMARK_SETS.get(dataset.lower())
    return known.recall_at if known else (1, 2, 4, 8)
