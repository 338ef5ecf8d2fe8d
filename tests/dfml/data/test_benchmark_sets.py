"""The readers of the benchmark sets, on miniatures in their published layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dfml.data.benchmark_sets import packed_benchmark_set
from dfml.data.manifest import read_manifest
from dfml.data.shards import ShardedImages
from dfml.errors import InvalidInput
from tests.benchmark_layouts import IMAGES, LAYOUTS, TEST, TRAIN


@pytest.mark.parametrize("dataset", ["cub", "cars", "SOP"])
def test_first_classes_train_and_the_others_test(dataset: str, tmp_path: Path) -> None:
    LAYOUTS[dataset](tmp_path)
    manifest = read_manifest(packed_benchmark_set(dataset, tmp_path))
    assert manifest.dataset == dataset.lower()
    assert {name: (s.rows, s.classes) for name, s in manifest.splits.items()} == {
        "train": (TRAIN * IMAGES, TRAIN),
        "test": (TEST * IMAGES, TEST),
    }
    train, test = (ShardedImages(tmp_path / "packed" / dataset.lower(), split) for split in ("train", "test"))
    assert not set(train.labels) & set(test.labels)
    assert train.image(0).size == (64, 80)


def test_classes_have_the_names_of_the_data_set(tmp_path: Path) -> None:
    LAYOUTS["cars"](tmp_path)
    assert read_manifest(packed_benchmark_set("cars", tmp_path)).classes[-1] == "101 Maker Model 101"


def test_in_shop_keeps_its_partition_and_shares_labels_between_query_and_gallery(tmp_path: Path) -> None:
    LAYOUTS["Inshop"](tmp_path)
    out = packed_benchmark_set("Inshop", tmp_path)
    assert {name: s.rows for name, s in read_manifest(out).splits.items()} == {
        "train": TRAIN * IMAGES,
        "query": TEST,
        "gallery": 2 * TEST,
    }
    assert set(ShardedImages(out, "query").labels) == set(ShardedImages(out, "gallery").labels)


def test_a_packed_set_is_used_again_without_the_images(tmp_path: Path) -> None:
    LAYOUTS["cub"](tmp_path)
    first = packed_benchmark_set("cub", tmp_path)
    shutil.rmtree(tmp_path / "CUB_200_2011")
    assert packed_benchmark_set("cub", tmp_path) == first


def test_sop_is_found_under_the_name_that_the_publications_readme_gives_it(tmp_path: Path) -> None:
    LAYOUTS["SOP"](tmp_path)
    (tmp_path / "Stanford_Online_Products").rename(tmp_path / "Standford_Online_Products")
    assert read_manifest(packed_benchmark_set("SOP", tmp_path)).splits["train"].classes == TRAIN


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [
        ("cub", "CUB_200_2011/images"),
        ("cars", "cars196/cars_annos.mat"),
        ("SOP", "Stanford_Online_Products/Ebay_test.txt"),
        ("SOP", "Stanford_Online_Products/bicycle_final/11319_0.JPG"),
        ("Inshop", "Inshop_Clothes"),
    ],
)
def test_what_is_missing_is_named_and_nothing_packed(dataset: str, missing: str, tmp_path: Path) -> None:
    LAYOUTS[dataset](tmp_path)
    gone = tmp_path / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InvalidInput, match=f"{missing} doesn't exist"):
        packed_benchmark_set(dataset, tmp_path)
    assert not list(tmp_path.glob("packed/*/*"))


def test_unknown_set_is_refused_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"unknown data set 'birds': name one of cub, cars, sop, inshop"):
        packed_benchmark_set("birds", tmp_path)
