"""The reader of Cars196 (Krause et al. 2013) as published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfml.data.packing.readers.annotations import class_number, matlab_arrays
from dfml.data.packing.readers.checks import check_sources, path_inside
from dfml.data.packing.readers.files import existing, file_source
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput

# The first half of the 196 classes.
TRAINING_CLASSES = 98


def read_cars(root: Path) -> list[ImageSource]:
    """Return the images in `car_ims/` that `cars_annos.mat` names, in its order.

    Args:
        root: the folder `cars196`, whose name starts the images' paths.

    Raises:
        InvalidInput: the annotations or an image are missing, or an annotation is malformed.
    """
    return check_sources(_images(root), root)


def _images(root: Path) -> Iterator[ImageSource]:
    file = existing(root / "cars_annos.mat")
    annotations, names = matlab_arrays(
        file.read_bytes(), file, annotations=("relative_im_path", "class"), class_names=()
    )
    for index, annotation in enumerate(annotations, start=1):
        source = f"annotation {index} of {file}"
        number = class_number(annotation["class"], source)
        if not 1 <= number <= len(names):
            raise InvalidInput(
                f"{source} has class number {number}, but there are {len(names)} class_names; fix it, or download the "
                "file again"
            )
        path = path_inside(str(annotation["relative_im_path"]), source)
        split = "train" if number <= TRAINING_CLASSES else "test"
        class_name = f"{number:03d} {names[number - 1]}"
        yield file_source(root / path, f"{root.name}/{path}", class_name, split, source)
