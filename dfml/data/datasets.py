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
