"""Readers of the benchmark sets in the folder layouts in which they are published, and their packing to shards.

`<root>/CUB_200_2011`, `<root>/cars196`, `<root>/Stanford_Online_Products`, `<root>/Inshop_Clothes`, as the publication's code
expects them. Classes are split as is usual in metric learning: the first half trains, the second half tests; In-Shop comes with
a partition into train, query and gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dfml.data.manifest import FILE_NAME
from dfml.data.shards import ImageRow, pack
from dfml.errors import InvalidInput

Labelled = tuple[Path, str, str]  # image file, class name, split


def _cub(root: Path) -> Iterator[Labelled]:
    """Class folders `images/001.Black_footed_Albatross` … `images/200.…`; 1 to 100 train."""
    for folder in sorted(_existing(root / "images").iterdir()):
        number = folder.name.split(".")[0]
        if folder.is_dir() and number.isdigit():
            for file in sorted(folder.iterdir()):
                if not file.name.startswith("._"):  # what macOS leaves behind
                    yield file, folder.name, "train" if int(number) <= 100 else "test"


def _cars(root: Path) -> Iterator[Labelled]:
    """`cars_annos.mat` names the images in `car_ims/`; classes 1 to 98 train."""
    from scipy.io import loadmat  # here, since this set alone needs it

    content = loadmat(_existing(root / "cars_annos.mat"), squeeze_me=True)
    names = [str(name) for name in content["class_names"].reshape(-1)]
    for annotation in content["annotations"].reshape(-1):
        number = int(annotation["class"])
        file = root / str(annotation["relative_im_path"])
        yield file, f"{number:03d} {names[number - 1]}", "train" if number <= 98 else "test"


def _sop(root: Path) -> Iterator[Labelled]:
    """`Ebay_train.txt` and `Ebay_test.txt`: image_id class_id super_class_id path, under a line of headings."""
    for split in ("train", "test"):
        for line in _existing(root / f"Ebay_{split}.txt").read_text(encoding="utf-8").splitlines()[1:]:
            if line.strip():
                _, number, _, path = line.split()
                yield root / path, f"{path.split('_final')[0]} {number}", split


def _inshop(root: Path) -> Iterator[Labelled]:
    """`Eval/list_eval_partition.txt`: image_name item_id evaluation_status, under a count and headings; images in `Img/`."""
    lines = _existing(root / "Eval" / "list_eval_partition.txt").read_text(encoding="utf-8").splitlines()[2:]
    for path, item, split in (line.split() for line in lines if line.strip()):
        yield root / "Img" / path, item, split


# By name in lower case: its folder, under each name that is in use, and its reader. The publication's README spells SOP's with two d.
BENCHMARK_SETS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[Labelled]]]] = {
    "cub": (("CUB_200_2011",), _cub),
    "cars": (("cars196",), _cars),
    "sop": (("Stanford_Online_Products", "Standford_Online_Products"), _sop),
    "inshop": (("Inshop_Clothes",), _inshop),
}
SPLITS = ("train", "test", "query", "gallery")


def read_benchmark_set(dataset: str, data_root: Path) -> Iterator[ImageRow]:
    """The images of a benchmark set as they are to be packed, split by split.

    Args:
        dataset: "cub", "cars", "SOP" or "Inshop", in any case.
        data_root: holds the set's folder.

    Raises:
        InvalidInput: there is no such set, or a folder or file of it is missing.
    """
    folder = benchmark_folder(dataset, data_root)
    _, reader = BENCHMARK_SETS[dataset.lower()]
    found = sorted(reader(folder), key=lambda row: SPLITS.index(row[2]))  # stable
    for file, class_name, split in found:
        yield ImageRow(_existing(file).read_bytes(), class_name, file.relative_to(data_root).as_posix(), split)


def benchmark_folder(dataset: str, data_root: Path) -> Path:
    """The set's own folder, under whichever of its names it is there.

    Raises:
        InvalidInput: there is no such set, or no such folder.
    """
    if dataset.lower() not in BENCHMARK_SETS:
        raise InvalidInput(f"unknown data set {dataset!r}: name one of {', '.join(BENCHMARK_SETS)}")
    names, _ = BENCHMARK_SETS[dataset.lower()]
    return _existing(next((data_root / name for name in names if (data_root / name).exists()), data_root / names[0]))


def packed_benchmark_set(dataset: str, data_root: Path) -> Path:
    """The folder of a benchmark set's shards, `<data_root>/packed/<dataset>`; made on first use.

    Raises:
        InvalidInput: as `read_benchmark_set`, or an image can't be decoded.
    """
    if not is_packed(dataset, data_root):
        pack(read_benchmark_set(dataset, data_root), _packed(dataset, data_root), dataset.lower())
    return _packed(dataset, data_root)


def is_packed(dataset: str, data_root: Path) -> bool:
    """Whether `packed_benchmark_set` has its shards already."""
    return (_packed(dataset, data_root) / FILE_NAME).is_file()


def _packed(dataset: str, data_root: Path) -> Path:
    return data_root / "packed" / dataset.lower()


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InvalidInput(
            f"{path} doesn't exist: put the data set there as it is published, or say with --data-root where it is"
        )
    return path
