"""Readers, one per file: each lists the images of a published data set without reading their bytes.

`BENCHMARK_SETS` holds the data sets known by name; `folder` and `table` read a user's own images.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfml.data.packing.readers.cars import read_cars
from dfml.data.packing.readers.cub import read_cub
from dfml.data.packing.readers.files import existing
from dfml.data.packing.readers.folder import read_folder
from dfml.data.packing.readers.imagenet import read_imagenet
from dfml.data.packing.readers.inshop import read_inshop
from dfml.data.packing.readers.sop import read_sop
from dfml.data.packing.readers.table import read_table
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

__all__ = [
    "BENCHMARK_SETS",
    "BenchmarkSet",
    "check_counts",
    "read_benchmark_set",
    "read_folder",
    "read_table",
]


@dataclass(frozen=True)
class BenchmarkSet:
    """A data set that papers report results on.

    Attributes:
        folders: the names in use for its folder below a data root; "" is the data root itself.
        read: the reader, which takes the set's own folder.
        official: the numbers of images and classes of each split in the publication.
        recall_at: the K of R@K that papers report.
        recipe: the publication's recipe, as its differences from the defaults of `Recipe`; None if
            the publication has none.
    """

    folders: tuple[str, ...]
    read: Callable[[Path], list[ImageSource]]
    official: dict[str, tuple[int, int]]
    recall_at: tuple[int, ...]
    recipe: dict[str, Any] | None = None


BENCHMARK_SETS: dict[str, BenchmarkSet] = {
    "cub": BenchmarkSet(
        ("CUB_200_2011",), read_cub, {"train": (5864, 100), "test": (5924, 100)}, (1, 2, 4, 8), recipe={}
    ),
    "cars": BenchmarkSet(
        ("cars196",),
        read_cars,
        {"train": (8054, 98), "test": (8131, 98)},
        (1, 2, 4, 8),
        recipe={"schedule": {"kind": "step", "step": 10, "gamma": 0.5}},
    ),
    "sop": BenchmarkSet(
        # The README of the publication's code spells the name with two d.
        ("Stanford_Online_Products", "Standford_Online_Products"),
        read_sop,
        {"train": (59551, 11318), "test": (60502, 11316)},
        (1, 10, 100, 1000),
        recipe={"lr": 6e-4, "warm_epochs": 1, "schedule": {"kind": "step", "step": 10, "gamma": 0.25}},
    ),
    "inshop": BenchmarkSet(
        ("Inshop_Clothes",),
        read_inshop,
        {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)},
        (1, 10, 20, 30, 40, 50),
    ),
    "imagenet": BenchmarkSet(
        ("imagenet", "ILSVRC2012", ""), read_imagenet, {"train": (1281167, 1000), "test": (50000, 1000)}, (1,)
    ),
}


def read_benchmark_set(dataset: str, root: Path) -> list[ImageSource]:
    """Return the images of a benchmark set, split by split.

    Args:
        dataset: a key of `BENCHMARK_SETS`, in any case.
        root: the set's own folder, under one of its names, or the folder that holds it.

    Raises:
        InvalidInput: there is no such set, or one of its folders, annotations or images is missing
            or malformed.
    """
    known = _known(dataset)
    # Absolute, so that "." has a name, too.
    root = Path(os.path.abspath(root))
    candidates = [root / name for name in known.folders] + ([root] if root.name in known.folders else [])
    return known.read(next((folder for folder in candidates if folder.is_dir()), None) or existing(candidates[0]))


def check_counts(dataset: str, sources: list[ImageSource]) -> list[str]:
    """Return a sentence for each split whose image or class count differs from the publication's.

    Raises:
        InvalidInput: there is no such set.
    """
    sentences = []
    for split, official in _known(dataset).official.items():
        names = [source.class_name for source in sources if source.split == split]
        if (len(names), len(set(names))) != official:
            sentences.append(
                f"{dataset.lower()}'s split {split!r} has {len(names)} images of {len(set(names))} classes, "
                f"but the publication has {official[0]} of {official[1]}"
            )
    return sentences


def _known(dataset: str) -> BenchmarkSet:
    if dataset.lower() not in BENCHMARK_SETS:
        raise InvalidInput(f"unknown data set {dataset!r}; name one of {', '.join(BENCHMARK_SETS)}")
    return BENCHMARK_SETS[dataset.lower()]
