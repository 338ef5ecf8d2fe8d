"""Miniatures of the benchmark sets in the exact folder layouts of the published ones."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from scipy.io import savemat

# Numbers of classes, and images per class.
TRAIN, TEST, IMAGES = 5, 3, 3


@functools.cache
def jpeg(number: int, seed: int) -> bytes:
    """Return a noisy JPEG in the class's own colors."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).repeat(20, 0).repeat(16, 1)
    noisy = np.clip(coarse + np.random.default_rng(seed).normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG")
    return stream.getvalue()


def draw(path: Path, number: int, seed: int) -> None:
    """Write a noisy JPEG in the class's own colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(number, seed))


def cub(root: Path) -> None:
    for number in [*range(1, TRAIN + 1), *range(101, 101 + TEST)]:
        for i in range(IMAGES):
            name = f"Bird_{number}"
            draw(root / "CUB_200_2011" / "images" / f"{number:03d}.{name}" / f"{name}_{i:04d}_{i}.jpg", number, i)


def cars(root: Path) -> None:
    fields = [
        ("relative_im_path", "O"),
        *((f"bbox_{c}", "O") for c in ("x1", "y1", "x2", "y2")),
        ("class", "O"),
        ("test", "O"),
    ]
    rows = []
    for number in [*range(1, TRAIN + 1), *range(99, 99 + TEST)]:
        for _ in range(IMAGES):
            path = f"car_ims/{len(rows) + 1:06d}.jpg"
            draw(root / "cars196" / path, number, len(rows))
            rows.append((path, 1, 1, 60, 60, number, 0))
    names = np.array([[f"Maker Model {i}" for i in range(1, 197)]], dtype=object)
    savemat(root / "cars196" / "cars_annos.mat", {"annotations": np.array([rows], dtype=fields), "class_names": names})


def sop(root: Path) -> None:
    image = 0
    for split, classes in (("train", range(1, TRAIN + 1)), ("test", range(11319, 11319 + TEST))):
        lines = ["image_id class_id super_class_id path"]
        for number in classes:
            for i in range(IMAGES):
                image += 1
                path = f"bicycle_final/{number}_{i}.JPG"
                draw(root / "Stanford_Online_Products" / path, number, i)
                lines.append(f"{image} {number} 1 {path}")
        (root / "Stanford_Online_Products" / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")


def inshop(root: Path, train: int = TRAIN, test: int = TEST) -> None:
    """Write In-Shop with `train` training classes (fewer than 20) and `test` test classes."""
    lines = []
    for item, splits in [
        *((i, ["train"] * IMAGES) for i in range(1, train + 1)),
        *((i, ["query", "gallery", "gallery"]) for i in range(20, 20 + test)),
    ]:
        for i, split in enumerate(splits):
            path = f"img/WOMEN/Tees/id_{item:08d}/0{i}_1_front.jpg"
            draw(root / "Inshop_Clothes" / "Img" / path, item, i)
            lines.append(f"{path}  id_{item:08d}  {split}")
    file = root / "Inshop_Clothes" / "Eval" / "list_eval_partition.txt"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join([str(len(lines)), "image_name item_id evaluation_status", *lines]) + "\n")


# The classes of ImageNet's miniature, with ILSVRC2012_ID 1, 2, 3, 4.
WNIDS = [f"n{number:08d}" for number in (9, 2, 5, 7)]
# The classes of its validation images 1, 2, …
VALIDATION_IDS = [3, 1, 4, 2, 1, 3, 2, 4]


def imagenet_folders(root: Path) -> None:
    """Write ImageNet's folders: `IMAGES` training images and 2 validation images per class."""
    for wnid in WNIDS:
        for i in range(IMAGES):
            draw(root / "train" / wnid / f"{wnid}_{i}.JPEG", int(wnid[1:]), i)
    for number, imagenet_id in enumerate(VALIDATION_IDS, start=1):
        wnid = WNIDS[imagenet_id - 1]
        draw(root / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG", int(wnid[1:]), 100 + number)


def imagenet_tars(root: Path) -> None:
    """Write `imagenet_folders` as ImageNet's official tar files, with its development kit."""
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name:
        images = Path(name)
        imagenet_folders(images)
        with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
            for wnid in WNIDS:
                with tarfile.open(images / f"{wnid}.tar", "w") as inner:
                    for file in sorted((images / "train" / wnid).iterdir(), reverse=True):
                        inner.add(file, file.name)
                outer.add(images / f"{wnid}.tar", f"{wnid}.tar")
        with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
            for file in sorted((images / "val").rglob("*.JPEG"), key=lambda file: file.name):
                tar.add(file, file.name)
    imagenet_devkit(root, VALIDATION_IDS)


def imagenet_devkit(root: Path, validation_ids: list[int]) -> None:
    """Write `ILSVRC2012_devkit_t12.tar.gz` with the WNIDs and the classes of validation images."""
    fields = [(field, "O") for field in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")]
    leaves = [(number, wnid, f"name of {wnid}", "a thing", 0, []) for number, wnid in enumerate(WNIDS, start=1)]
    synsets = np.array([[row] for row in [*leaves, (len(WNIDS) + 1, "n00001740", "entity", "all", 2, [1, 2])]], fields)
    with TemporaryDirectory() as name:
        data = Path(name) / "ILSVRC2012_devkit_t12" / "data"
        data.mkdir(parents=True)
        savemat(data / "meta.mat", {"synsets": synsets})
        lines = [str(number) for number in validation_ids]
        (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(lines) + "\n")
        with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
            tar.add(data.parent, data.parent.name)


LAYOUTS = {"cub": cub, "cars": cars, "SOP": sop, "Inshop": inshop}
