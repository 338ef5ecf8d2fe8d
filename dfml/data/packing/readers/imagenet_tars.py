"""Positions of the images in ImageNet-1K's official tar files, read from the headers only."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dfml.data.packing.readers.annotations import annotation_lines, class_number, matlab_arrays
from dfml.data.packing.readers.files import existing
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

# Holds 1000 tars nXXXXXXXX.tar, one per class.
TRAINING_TAR = "ILSVRC2012_img_train.tar"
# Holds the images directly.
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
# Holds the validation images' classes.
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_devkit_t12/data/meta.mat"


def training_images(root: Path) -> Iterator[ImageSource]:
    """Yield the images of split "train".

    The tar and the tars in it are uncompressed, so each image is a byte range of the outer tar.

    Raises:
        InvalidInput: the tar is missing or malformed.
    """
    file = existing(root / TRAINING_TAR)
    with _readable(file), tarfile.open(file, "r:") as outer:
        for tar in outer:
            wnid, ending = _matched(r"(n\d{8})(\.tar)", tar, file, "nXXXXXXXX.tar")
            with (
                _readable(f"{wnid}{ending} in {file}"),
                tarfile.open(fileobj=outer.extractfile(tar), mode="r:") as inner,
            ):
                for image in inner:
                    if image.isfile():
                        path = f"train/{wnid}/{PurePosixPath(image.name).name}"
                        yield ImageSource(file, wnid, path, "train", tar.offset_data + image.offset_data, image.size)


def validation_images(root: Path) -> Iterator[ImageSource]:
    """Yield the images of split "test", with their classes from the development kit.

    Raises:
        InvalidInput: a tar is missing or malformed, or the kit doesn't have a class for each image.
    """
    file, kit = existing(root / VALIDATION_TAR), existing(root / DEVKIT)
    wnids = _validation_classes(kit)
    found = []
    with _readable(file), tarfile.open(file, "r:") as tar:
        for image in tar:
            name, number = _matched(r"(ILSVRC2012_val_(\d{8})\.JPEG)", image, file, "ILSVRC2012_val_XXXXXXXX.JPEG")
            if not 1 <= int(number) <= len(wnids):
                raise InvalidInput(
                    f"{file} has {name}, but {kit} has classes for {len(wnids)} images; download both again"
                )
            wnid = wnids[int(number) - 1]
            found.append(ImageSource(file, wnid, f"val/{wnid}/{name}", "test", image.offset_data, image.size))
    if len(found) != len(wnids):
        raise InvalidInput(
            f"{file} has {len(found)} images, but {kit} has classes for {len(wnids)}; download both again"
        )
    yield from found


def _validation_classes(kit: Path) -> list[str]:
    """Return the WNIDs of the validation images 1, 2, … in that order."""
    contents = []
    with _readable(kit), tarfile.open(kit, "r:gz") as tar:
        for name in (GROUND_TRUTH, SYNSETS):
            try:
                member = tar.extractfile(name)
            except KeyError as error:
                raise InvalidInput(f"{kit} has no {name}; download it again") from error
            contents.append(member.read() if member else b"")
    (synsets,) = matlab_arrays(contents[1], f"{SYNSETS} in {kit}", synsets=("ILSVRC2012_ID", "WNID", "num_children"))
    # Only leaves of the WordNet tree are classes; they are numbered 1 … 1000.
    leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    wnids = []
    for source, (number,) in annotation_lines(contents[0], f"{GROUND_TRUTH} in {kit}", "ILSVRC2012_ID", headings=0):
        if class_number(number, source) not in leaves:
            raise InvalidInput(
                f"{source} has class number {number}, which {SYNSETS} doesn't have; download {kit} again"
            )
        wnids.append(leaves[int(number)])
    return wnids


def _matched(pattern: str, member: tarfile.TarInfo, file: Path, expected: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, PurePosixPath(member.name).name)
    if match is None or not member.isfile():
        raise InvalidInput(f"{file} has {member.name!r}, but only files {expected} are allowed; download it again")
    return tuple(match.groups())


@contextmanager
def _readable(file: Path | str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{file} can't be read as a tar file ({error}); download it again") from error
