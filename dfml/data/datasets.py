"""Data sets by name: where each one is found when no location is given."""

from __future__ import annotations

from pathlib import Path

from dfml.errors import InvalidInput

REPOSITORY = Path(__file__).resolve().parents[2]

# A packed data set that ships with the project is one line here.
DATASETS: dict[str, Path] = {"emoji": REPOSITORY / "datasets" / "emoji"}


def locate(dataset: str, data: str | None) -> Path:
    """The folder of a packed data set: `data` where it is given, else where `dataset` is known to be.

    Raises:
        InvalidInput: neither is.
    """
    if data is not None:
        return Path(data).expanduser().resolve()
    if dataset not in DATASETS:
        raise InvalidInput(
            f"unknown data set {dataset!r}: name one of {', '.join(DATASETS)}, or say with --data where your packed images are"
        )
    return DATASETS[dataset]


# The K of R@K that papers report, by data set.
RECALL_AT: dict[str, tuple[int, ...]] = {"sop": (1, 10, 100, 1000), "inshop": (1, 10, 20, 30, 40, 50)}


def recall_at(dataset: str) -> tuple[int, ...]:
    """The K of R@K for a data set, by its name in any case; 1, 2, 4, 8 where it isn't known otherwise (CUB, Cars196)."""
    return RECALL_AT.get(dataset.lower(), (1, 2, 4, 8))
