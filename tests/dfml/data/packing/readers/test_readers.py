"""The readers, on miniatures in the layouts of the published data sets, and on malformed ones."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from dfml.data.packing.readers import BENCHMARK_SETS, check_counts, read_benchmark_set, read_folder, read_table
from dfml.data.packing.readers.checks import SPLITS
from dfml.data.packing.readers.folder import divide_classes
from dfml.data.packing.source import ImageSource
from dfml.errors import InvalidInput
from tests.benchmark_layouts import (
    IMAGES,
    LAYOUTS,
    TEST,
    TRAIN,
    VALIDATION_IDS,
    WNIDS,
    draw,
    imagenet_devkit,
    imagenet_folders,
    imagenet_tars,
)


def folder(root: Path) -> None:
    for number in range(6):
        for i in range(IMAGES):
            draw(root / f"class {number}" / "deeper" / f"{i}.jpg", number, i)
    (root / "class 0" / "notes.txt").write_text("no image")


def split_folder(root: Path) -> None:
    for number in range(6):
        for i in range(2):
            draw(root / ("train" if number < 4 else "test") / f"class {number}" / f"{i}.jpg", number, i)


def table(root: Path, split: bool = False) -> None:
    lines = ["path,label,note" + ",split" * split]
    for number in range(6):
        for i in range(IMAGES):
            draw(root / "images" / f"{number}_{i}.jpg", number, i)
            lines.append(f'images/{number}_{i}.jpg,"class, {number}",x' + f",{SPLITS[number // 2]}" * split)
    lines = [line.replace('"class, 5",x,test', '"class, 5",x,query') for line in lines]
    (root / "table.csv").write_text("\n".join(lines) + "\n")


Layout = tuple[Callable[[Path], None], Callable[[Path], list[ImageSource]]]  # makes a miniature; reads it
READERS: dict[str, Layout] = {
    **{name: (LAYOUTS[name], lambda root, name=name: read_benchmark_set(name, root)) for name in LAYOUTS},
    "ImageNet, folders": (imagenet_folders, lambda root: read_benchmark_set("imagenet", root)),
    "ImageNet, tars": (imagenet_tars, lambda root: read_benchmark_set("imagenet", root)),
    "folder": (folder, read_folder),
    "folder, train and test": (split_folder, read_folder),
    "table": (table, lambda root: read_table(root / "table.csv")),
}
COUNTS = {  # by split: images and classes
    **{key: {"train": (TRAIN * IMAGES, TRAIN), "test": (TEST * IMAGES, TEST)} for key in ("cub", "cars", "SOP")},
    "Inshop": {"train": (TRAIN * IMAGES, TRAIN), "query": (TEST, TEST), "gallery": (2 * TEST, TEST)},
    **{key: {"train": (4 * IMAGES, 4), "test": (8, 4)} for key in ("ImageNet, folders", "ImageNet, tars")},
    **{key: {"train": (3 * IMAGES, 3), "test": (3 * IMAGES, 3)} for key in ("folder", "table")},
    "folder, train and test": {"train": (8, 4), "test": (4, 2)},
}


def counts(sources: list[ImageSource]) -> dict[str, tuple[int, int]]:
    found = {}
    for split in dict.fromkeys(source.split for source in sources):
        names = [source.class_name for source in sources if source.split == split]
        found[split] = (len(names), len(set(names)))
    return found


def refused(read: Callable[[], object], *parts: str) -> None:
    """Check that reading is refused in one sentence that contains all of `parts`."""
    with pytest.raises(InvalidInput) as refusal:
        read()
    sentence = str(refusal.value)
    assert all(part in sentence for part in parts), sentence
    assert "\n" not in sentence


@pytest.fixture(scope="module", params=READERS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp("layout")
    READERS[request.param][0](root)
    return request.param, root


def test_every_reader_keeps_what_packing_relies_on(layout: tuple[str, Path]) -> None:
    name, root = layout
    read = READERS[name][1]
    sources = read(root)
    assert sources == read(root)
    assert counts(sources) == COUNTS[name]
    assert [s.split for s in sources] == sorted((s.split for s in sources), key=SPLITS.index)
    assert len({s.path for s in sources}) == len(sources)
    for source in sources:
        assert source.path == Path(source.path).as_posix()
        assert not source.path.startswith("/")
        content = source.read()
        assert len(content) == source.size
        assert Image.open(io.BytesIO(content)).size == (64, 80)
        if "tars" not in name:
            assert content == (root / source.path).read_bytes()
    if "ImageNet" not in name:
        training = {s.class_name for s in sources if s.split == "train"}
        assert not training & {s.class_name for s in sources if s.split != "train"}


def test_reading_opens_no_image(layout: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    name, root = layout
    monkeypatch.setattr(ImageSource, "read", None)
    opened: list[Path] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self) or real(self, *a, **k))
    READERS[name][1](root)
    assert not [path for path in opened if path.suffix.lower() in (".jpg", ".jpeg")]


@pytest.mark.parametrize("dataset", [*LAYOUTS, "imagenet"])
def test_root_is_the_sets_folder_or_the_one_that_holds_it(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / BENCHMARK_SETS[dataset.lower()].folders[0]
    imagenet_tars(own) if dataset == "imagenet" else LAYOUTS[dataset](tmp_path)
    sources = read_benchmark_set(dataset, tmp_path)
    assert read_benchmark_set(dataset.upper(), own) == sources
    monkeypatch.chdir(own)
    assert read_benchmark_set(dataset, Path()) == sources


def test_paths_and_class_names_are_those_of_the_data_sets(tmp_path: Path) -> None:
    for draw_set in LAYOUTS.values():
        draw_set(tmp_path)
    first = {name: read_benchmark_set(name, tmp_path)[0] for name in LAYOUTS}
    assert {name: (source.path, source.class_name) for name, source in first.items()} == {
        "cub": ("CUB_200_2011/images/001.Bird_1/Bird_1_0000_0.jpg", "001.Bird_1"),
        "cars": ("cars196/car_ims/000001.jpg", "001 Maker Model 1"),
        "SOP": ("Stanford_Online_Products/bicycle_final/1_0.JPG", "bicycle 1"),
        "Inshop": ("Inshop_Clothes/Img/img/WOMEN/Tees/id_00000001/00_1_front.jpg", "id_00000001"),
    }


def test_sop_is_found_under_the_name_that_the_publications_readme_gives_it(tmp_path: Path) -> None:
    LAYOUTS["SOP"](tmp_path)
    (tmp_path / "Stanford_Online_Products").rename(tmp_path / "Standford_Online_Products")
    for root in (tmp_path, tmp_path / "Standford_Online_Products"):
        assert counts(read_benchmark_set("SOP", root)) == COUNTS["SOP"]


def test_in_shops_partition_may_lie_in_the_sets_folder(tmp_path: Path) -> None:
    LAYOUTS["Inshop"](tmp_path)
    expected = read_benchmark_set("inshop", tmp_path)
    own = tmp_path / "Inshop_Clothes"
    (own / "Eval" / "list_eval_partition.txt").rename(own / "list_eval_partition.txt")
    assert read_benchmark_set("inshop", tmp_path) == expected


def test_what_macos_leaves_behind_is_passed_over(tmp_path: Path) -> None:
    LAYOUTS["cub"](tmp_path)
    expected = read_benchmark_set("cub", tmp_path)
    images = tmp_path / "CUB_200_2011" / "images"
    (images / "._001.Bird_1").write_text("x")
    (images / "001.Bird_1" / "._Bird_1_0000_0.jpg").write_text("x")
    assert read_benchmark_set("cub", tmp_path) == expected


def test_imagenets_tars_hold_what_its_folders_hold(tmp_path: Path) -> None:
    imagenet_folders(tmp_path / "folders")
    imagenet_tars(tmp_path / "tars")

    def content(root: Path) -> list[tuple[str, str, str, bytes]]:
        return [(s.path, s.class_name, s.split, s.read()) for s in read_benchmark_set("imagenet", root)]

    assert content(tmp_path / "tars") == content(tmp_path / "folders")
    assert {name for _, name, _, _ in content(tmp_path / "tars")} == set(WNIDS)


def test_counts_that_differ_from_the_publications_are_named(tmp_path: Path) -> None:
    LAYOUTS["Inshop"](tmp_path)
    sentences = check_counts("Inshop", read_benchmark_set("Inshop", tmp_path))
    assert sentences == [
        "inshop's split 'train' has 15 images of 5 classes, but the publication has 25882 of 3997",
        "inshop's split 'query' has 3 images of 3 classes, but the publication has 14218 of 3985",
        "inshop's split 'gallery' has 6 images of 3 classes, but the publication has 12612 of 3985",
    ]


@pytest.mark.parametrize("dataset", BENCHMARK_SETS)
def test_official_counts_raise_no_sentence(dataset: str) -> None:
    official = BENCHMARK_SETS[dataset].official
    file = Path("x")
    sources = [
        ImageSource(file, str(i % classes), str(i), split, 0, 1)
        for split, (images, classes) in official.items()
        if images < 100_000
        for i in range(images)
    ]
    said = check_counts(dataset, sources)
    assert [re.findall(r"split '(\w+)' has 0 images", sentence) for sentence in said] == (
        [["train"]] if dataset == "imagenet" else []
    )


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [
        ("cub", "CUB_200_2011"),
        ("cub", "CUB_200_2011/images"),
        ("cars", "cars196/cars_annos.mat"),
        ("cars", "cars196/car_ims/000003.jpg"),
        ("SOP", "Stanford_Online_Products/Ebay_test.txt"),
        ("SOP", "Stanford_Online_Products/bicycle_final/11319_0.JPG"),
        ("Inshop", "Inshop_Clothes"),
        ("Inshop", "Inshop_Clothes/Eval/list_eval_partition.txt"),
        ("Inshop", "Inshop_Clothes/Img/img/WOMEN/Tees/id_00000020/00_1_front.jpg"),
        ("imagenet", "ILSVRC2012_img_val.tar"),
        ("imagenet", "ILSVRC2012_devkit_t12.tar.gz"),
    ],
)
def test_what_is_missing_is_named(dataset: str, missing: str, tmp_path: Path) -> None:
    (imagenet_tars if dataset == "imagenet" else LAYOUTS[dataset])(tmp_path)
    gone = tmp_path / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    refused(lambda: read_benchmark_set(dataset, tmp_path), f"{gone} doesn't exist", "put the ")


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    LAYOUTS["cub"](tmp_path)
    link = tmp_path / "CUB_200_2011" / "images" / "001.Bird_1" / "z.jpg"
    link.symlink_to(tmp_path / "nowhere.jpg")
    refused(lambda: read_benchmark_set("cub", tmp_path), f"{link} doesn't exist", "001.Bird_1 names it")


def test_unknown_set_is_refused_with_those_known(tmp_path: Path) -> None:
    for ask in (lambda: read_benchmark_set("birds", tmp_path), lambda: check_counts("birds", [])):
        refused(ask, "unknown data set 'birds'; name one of cub, cars, sop, inshop, imagenet")


EBAY = "Stanford_Online_Products/Ebay_train.txt"
PARTITION = "Inshop_Clothes/Eval/list_eval_partition.txt"


@pytest.mark.parametrize(
    ("dataset", "file", "line", "says"),
    [
        ("SOP", EBAY, "16 1 bicycle_final/1_0.JPG", ["line 17 of", EBAY, "3 fields", "image_id class_id"]),
        ("SOP", EBAY, "16 one 1 bicycle_final/1_0.JPG", ["line 17 of", EBAY, "'one'", "not an integer"]),
        ("SOP", EBAY, "16 1 1 ../1_0.JPG", ["line 17 of", EBAY, "'../1_0.JPG'", "leads out"]),
        ("SOP", EBAY, "16 1 1 /etc/hosts", ["line 17 of", EBAY, "'/etc/hosts'", "leads out"]),
        ("SOP", EBAY, "16 1 1 bicycle_final", ["bicycle_final is not a file", "line 17 of", EBAY]),
        ("SOP", EBAY, "16 1 1 bicycle_final/1_0.JPG/x", ["1_0.JPG/x doesn't exist", "line 17 of", EBAY]),
        ("SOP", EBAY, "16 1 1 bicycle_final/./1_0.JPG", ["bicycle_final/1_0.JPG' twice in split 'train'"]),
        ("SOP", EBAY, "16 1 1 bicycle_final/\udcff.JPG", ["line 17 of", EBAY, "not UTF-8"]),
        ("Inshop", PARTITION, "img/a.jpg id_1", ["line 27 of", PARTITION, "2 fields", "evaluation_status"]),
        ("Inshop", PARTITION, "img/a.jpg id_1 val", ["line 27 of", PARTITION, "'val'", "train, query, gallery"]),
        ("Inshop", PARTITION, "img/../../a.jpg id_1 train", ["line 27 of", PARTITION, "leads out"]),
    ],
)
def test_a_bad_line_is_named(dataset: str, file: str, line: str, says: list[str], tmp_path: Path) -> None:
    LAYOUTS[dataset](tmp_path)
    with (tmp_path / file).open("a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(line + "\n")
    refused(lambda: read_benchmark_set(dataset, tmp_path), *says)


def test_lists_without_a_line_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"Stanford_Online_Products/Ebay_{split}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / f"Stanford_Online_Products/Ebay_{split}.txt").write_text("image_id class_id super_class_id path\n")
    refused(lambda: read_benchmark_set("SOP", tmp_path), "Stanford_Online_Products holds no images")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("class", 197, ["annotation 2 of", "cars_annos.mat", "197", "196"]),
        ("class", 0, ["annotation 2 of", "class number 0"]),
        ("class", "Audi", ["annotation 2 of", "'Audi'", "not an integer"]),
        ("relative_im_path", "../000001.jpg", ["annotation 2 of", "'../000001.jpg'", "leads out"]),
        ("relative_im_path", "car_ims/000001.jpg", ["'cars196/car_ims/000001.jpg' twice in split 'train'"]),
    ],
)
def test_a_bad_annotation_of_cars_is_named(field: str, value: object, says: list[str], tmp_path: Path) -> None:
    LAYOUTS["cars"](tmp_path)
    file = tmp_path / "cars196" / "cars_annos.mat"
    content = loadmat(file, squeeze_me=True)
    content["annotations"][field][1] = value
    savemat(file, {name: content[name] for name in ("annotations", "class_names")})
    refused(lambda: read_benchmark_set("cars", tmp_path), *says)


def test_a_broken_matlab_file_is_named(tmp_path: Path) -> None:
    LAYOUTS["cars"](tmp_path)
    file = tmp_path / "cars196" / "cars_annos.mat"
    whole = file.read_bytes()
    for content in (b"", b"<html>not found</html>" * 20, whole[:200], whole[: len(whole) // 2]):
        file.write_bytes(content)
        refused(lambda: read_benchmark_set("cars", tmp_path), f"{file} can't be read as a MATLAB file", "download")
    savemat(file, {"annotations": np.zeros((1, 3)), "class_names": np.zeros(3)})
    refused(lambda: read_benchmark_set("cars", tmp_path), f"{file} has no variable annotations", "relative_im_path")


@pytest.mark.parametrize("dataset", ["cub", "imagenet"])
def test_an_empty_class_folder_is_named(dataset: str, tmp_path: Path) -> None:
    (imagenet_folders if dataset == "imagenet" else LAYOUTS[dataset])(tmp_path)
    empty = tmp_path / ("val/n00000001" if dataset == "imagenet" else "CUB_200_2011/images/150.None")
    empty.mkdir()
    refused(lambda: read_benchmark_set(dataset, tmp_path), f"class folder {empty} holds no images")


def test_imagenets_splits_have_the_same_classes(tmp_path: Path) -> None:
    imagenet_folders(tmp_path)
    draw(tmp_path / "val" / "n99999999" / "x.JPEG", 1, 1)
    refused(lambda: read_benchmark_set("imagenet", tmp_path), "4 classes in train, 5 in val", "'n99999999' is in one")
    shutil.rmtree(tmp_path / "val")
    refused(lambda: read_benchmark_set("imagenet", tmp_path), f"{tmp_path / 'val'} is not a folder")
    shutil.rmtree(tmp_path / "train")
    refused(lambda: read_benchmark_set("imagenet", tmp_path), f"{tmp_path} has neither", "ILSVRC2012_img_train.tar")


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
@pytest.mark.parametrize("share", [0, 0.03, 0.5])
def test_a_tar_cut_short_is_named(name: str, share: float, tmp_path: Path) -> None:
    imagenet_tars(tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refused(lambda: read_benchmark_set("imagenet", tmp_path), f"{file} can't be read as a tar file", "download")


@pytest.mark.parametrize("member", ["readme.txt", "ILSVRC2012_val_00000001.jpg"])
def test_what_doesnt_belong_in_a_tar_is_named(member: str, tmp_path: Path) -> None:
    imagenet_tars(tmp_path)
    for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar"):
        with tarfile.open(tmp_path / name, "a") as tar:
            tar.addfile(tarfile.TarInfo(member))
        refused(lambda name=name: read_benchmark_set("imagenet", tmp_path), f"{tmp_path / name} has '{member}'")


def test_an_inner_tar_that_is_none_is_named(tmp_path: Path) -> None:
    imagenet_tars(tmp_path)
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "a") as tar:
        information = tarfile.TarInfo("n00000004.tar")
        information.size = 600
        tar.addfile(information, io.BytesIO(b"<html>" * 100))
    refused(lambda: read_benchmark_set("imagenet", tmp_path), "n00000004.tar in ", "img_train.tar can't be read")


@pytest.mark.parametrize(
    ("validation_ids", "says"),
    [
        (VALIDATION_IDS[:-1], ["ILSVRC2012_val_00000008.JPEG", "classes for 7 images"]),
        ([*VALIDATION_IDS, 1], ["has 8 images", "has classes for 9"]),
        ([*VALIDATION_IDS[:-1], 5], ["line 8 of", "ILSVRC2012_validation_ground_truth.txt", "class number 5"]),
        ([*VALIDATION_IDS[:-1], "x"], ["line 8 of", "'x'", "not an integer"]),
        ([*VALIDATION_IDS[:-1], "1 2"], ["line 8 of", "2 fields"]),
    ],
)
def test_a_kit_that_doesnt_fit_the_images_is_refused(validation_ids: list, says: list[str], tmp_path: Path) -> None:
    imagenet_tars(tmp_path)
    imagenet_devkit(tmp_path, validation_ids)
    refused(lambda: read_benchmark_set("imagenet", tmp_path), *says)


def test_a_kit_without_its_files_is_refused(tmp_path: Path) -> None:
    imagenet_tars(tmp_path)
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz"):
        pass
    refused(lambda: read_benchmark_set("imagenet", tmp_path), "devkit_t12.tar.gz has no ", "ground_truth.txt")


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_divided_by_their_names_and_the_seed(seed: int) -> None:
    names = [f"c{i}" for i in range(20)]
    divided = divide_classes(reversed(names), 0.3, seed, "these")
    assert divided == divide_classes(names, 0.3, seed, "those")
    assert sorted(divided) == sorted(names)
    assert list(divided.values()).count("test") == 6
    assert divided != divide_classes(names, 0.3, seed + 1, "others")


def test_a_folder_with_too_few_classes_or_images_is_refused(tmp_path: Path) -> None:
    refused(lambda: read_folder(tmp_path / "x"), f"{tmp_path / 'x'} is not a folder")
    folder(tmp_path)
    refused(lambda: read_folder(tmp_path, 0.99), "6 class folders, of which 6 would be for test", "at least 2")
    (tmp_path / "empty").mkdir()
    refused(lambda: read_folder(tmp_path), f"class folder {tmp_path / 'empty'} has 0 image(s)", "two or more")
    draw(tmp_path / "empty" / "1.jpg", 1, 1)
    refused(lambda: read_folder(tmp_path), f"class folder {tmp_path / 'empty'} has 1 image(s)")


def test_train_and_test_as_given_may_share_classes(tmp_path: Path) -> None:
    for split, images in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            for i in range(images):
                draw(tmp_path / split / name / f"{i}.jpg", i, i)
    assert counts(read_folder(tmp_path)) == {"train": (6, 2), "test": (2, 2)}
    draw(tmp_path / "test" / "owl" / "0.jpg", 1, 1)
    refused(lambda: read_folder(tmp_path), f"class folder {tmp_path / 'test' / 'owl'} has 1 image(s)")
    draw(tmp_path / "more" / "0.jpg", 1, 1)  # not exactly train and test: three classes
    refused(lambda: read_folder(tmp_path, 0.3), f"class folder {tmp_path / 'more'} has 1 image(s)")
    shutil.rmtree(tmp_path / "more")
    shutil.rmtree(tmp_path / "train" / "dog")
    refused(lambda: read_folder(tmp_path), f"{tmp_path / 'train'} has 1 class folder; give at least 2")


def test_a_table_may_give_the_split_and_lie_elsewhere(tmp_path: Path) -> None:
    table(tmp_path / "data", split=True)
    lines = (tmp_path / "data" / "table.csv").read_text().splitlines()
    # Classes 2 and 3 are test, 4 and 5 query; the last image of each query class is in the gallery.
    lines = [re.sub(r"(_2\.jpg.*)query$", r"\1gallery", line) for line in lines]
    file = tmp_path / "elsewhere.csv"
    file.write_text("\ufeff" + "\r\n".join(lines).replace("images/0_0", "./images//0_0"), encoding="utf-8")
    sources = read_table(file, tmp_path / "data")
    assert counts(sources) == {"train": (6, 2), "test": (6, 2), "query": (4, 2), "gallery": (2, 2)}
    assert (sources[0].path, sources[0].class_name) == ("images/0_0.jpg", "class, 0")
    refused(lambda: read_table(file), "images/0_0.jpg doesn't exist", f"line 2 of {file} names it")


HEADINGS = "path,label,split\n"
A, B = "a.jpg,cat,train\n", "b.jpg,cat,train\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["table.csv has no rows", "path", "label"]),
        (HEADINGS, ["table.csv has no rows"]),
        ("path,class\na.jpg,cat\n", ["line 1 of", "table.csv", "['path', 'class']", "not 'label'"]),
        ("path;label\na.jpg;cat\n", ["line 1 of", "['path;label']", "not 'path'", "comma"]),
        (HEADINGS + A + "b.jpg,cat,val\n", ["line 3 of", "split 'val'", "train, test, query, gallery"]),
        (HEADINGS + A + "b.jpg,cat,\n", ["line 3 of", "split ''"]),
        (HEADINGS + A + "b.jpg, ,train\n", ["line 3 of", "has no label"]),
        (HEADINGS + A + ",cat,train\n", ["line 3 of", "has no path"]),
        (HEADINGS + A + "b.jpg,cat\n", ["line 3 of", "2 fields", "3 headings"]),
        (HEADINGS + A + "b.jpg,cat,train,x\n", ["line 3 of", "4 fields", "3 headings"]),
        (HEADINGS + A + B + "./a.jpg,cat,train\n", ["line 4 of", "'a.jpg'", "line 2 of", "has, too"]),
        (HEADINGS + A + "c.jpg,cat,train\n", ["c.jpg doesn't exist", "line 3 of"]),
        (HEADINGS + A + "/b.jpg,cat,train\n", ["line 3 of", "'/b.jpg'", "leads out"]),
        (HEADINGS + A + "x/../../b.jpg,cat,train\n", ["line 3 of", "'x/../../b.jpg'", "leads out"]),
        (HEADINGS + A + "link.jpg,cat,train\n", ["line 3 of", "'link.jpg'", "a link that leads out"]),
        (HEADINGS + A + "\udcff.jpg,cat,train\n", ["line 3 of", "not UTF-8"]),
        (HEADINGS + A + '"b.jpg,cat,train\n' + A, ["line 3 of", "not CSV"]),
        (HEADINGS + A + '\n"b\n.jpg",cat,val\n', ["line 4 of", "split 'val'"]),
        (HEADINGS + A + B + "c.jpg,dog,train\n", ["line 4 of", "'dog'", "no other image;"]),
        (HEADINGS + A + "b.jpg,cat,query\n", ["line 3 of", "'cat'", "no other image in the gallery;"]),
        ("path,label\na.jpg,cat\nb.jpg,cat\n", ["table.csv has 1 classes", "at least 2"]),
    ],
)
def test_a_bad_table_is_refused(content: str, says: list[str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a.jpg", "b.jpg"):
        draw(root / name, 1, 1)
    draw(tmp_path / "outside.jpg", 1, 1)
    (root / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (root / "table.csv").write_text(content, encoding="utf-8", errors="surrogateescape")
    refused(lambda: read_table(root / "table.csv"), *says)


def test_a_table_that_isnt_there_is_named(tmp_path: Path) -> None:
    refused(lambda: read_table(tmp_path / "x.csv"), f"{tmp_path / 'x.csv'} is not a file", "CSV", "path", "label")
