"""Shards and manifest: packed and read back, and damage found."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dfml.data.dataset import ShardedImages
from dfml.data.datasets import DATASETS, locate
from dfml.data.images import decode
from dfml.data.manifest import FILE_NAME, read_manifest
from dfml.data.packing import pack
from dfml.data.shards import ImageRow
from dfml.errors import InvalidInput


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def row(class_name: str, split: str = "train", image: bytes | None = None, path: str = "some.png") -> ImageRow:
    return ImageRow(image or encoded(picture(len(class_name)), "PNG"), class_name, path, split)


ROWS = [
    ImageRow(encoded(picture(0), "PNG"), "cat", "cat/0.png", "train"),
    ImageRow(encoded(picture(1), "JPEG"), "dog", "dog/1.jpg", "train"),
    ImageRow(encoded(picture(2), "WEBP", lossless=True), "cat", "cat/2.webp", "train"),
    ImageRow(encoded(picture(3), "PNG"), "owl", "owl/3.png", "test"),
    ImageRow(encoded(picture(4), "PNG"), "elk", "elk/4.png", "test"),
]


@pytest.fixture
def packed_animals(tmp_path: Path) -> Path:
    pack(ROWS, tmp_path, "animals")
    return tmp_path


# --- Packing and reading back ----------------------------------------------------------------------------------------


def test_images_labels_and_paths_come_back_in_order(tmp_path: Path) -> None:
    pack(ROWS, tmp_path, "animals")
    train, test = ShardedImages(tmp_path, "train"), ShardedImages(tmp_path, "test")
    assert (train.paths, test.paths) == (["cat/0.png", "dog/1.jpg", "cat/2.webp"], ["owl/3.png", "elk/4.png"])
    assert [train.class_names[label] for label in train.labels] == ["cat", "dog", "cat"]
    assert [test.class_names[label] for label in test.labels] == ["owl", "elk"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 0], [2, 3])
    for images, i, seed in ((train, 0, 0), (train, 2, 2), (test, 0, 3), (test, 1, 4)):  # the lossless ones
        assert np.array_equal(np.asarray(images.image(i)), np.asarray(picture(seed)))
    with Image.open(io.BytesIO(ROWS[1].image)) as jpeg:
        assert np.array_equal(np.asarray(train.image(1)), np.asarray(jpeg))
    assert len(train) == 3


def test_shards_stay_below_their_size_unless_one_image_is_larger(tmp_path: Path) -> None:
    rows = [row(f"class {i}", image=encoded(picture(i), "BMP")) for i in range(10)]
    manifest = pack(rows, tmp_path, "many", shard_bytes=3 * len(rows[0].image))
    assert [shard.rows for shard in manifest.shards] == [3, 3, 3, 1]


def test_manifest_counts_rows_and_classes_and_names_every_file(packed_animals: Path) -> None:
    manifest = read_manifest(packed_animals)
    assert {name: (split.rows, split.classes) for name, split in manifest.splits.items()} == {
        "train": (3, 2),
        "test": (2, 2),
    }
    assert manifest.dataset == "animals"
    files = {shard.file for shard in manifest.shards} | {split.index.file for split in manifest.splits.values()}
    assert files | {FILE_NAME} == {path.name for path in packed_animals.iterdir()}


def test_manifest_gives_size_and_hash_of_each_file(packed_animals: Path) -> None:
    for shard in read_manifest(packed_animals).shards:
        content = (packed_animals / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_encoded_bytes_are_kept_as_found_and_other_tools_can_read_them(packed_animals: Path) -> None:
    table = pq.read_table(packed_animals / "train-00000.parquet").to_pydict()
    assert table["image"] == [r.image for r in ROWS[:3]]
    assert table["label"] == [0, 1, 0]
    assert table["class_name"] == ["cat", "dog", "cat"]
    assert table["split"] == ["train"] * 3


def test_packing_twice_gives_the_same_files(tmp_path: Path) -> None:
    assert pack(ROWS, tmp_path / "a", "animals") == pack(ROWS, tmp_path / "b", "animals")


# --- Images of all kinds ---------------------------------------------------------------------------------------------


def grey() -> bytes:
    return encoded(Image.new("L", (4, 4), 100), "PNG")


def palette_with_transparency() -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    return encoded(image, "PNG", transparency=0)


def half_transparent() -> bytes:
    return encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 51)), "PNG")


def cmyk() -> bytes:
    return encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100)


def bilevel() -> bytes:
    return encoded(Image.new("1", (4, 4), 1), "PNG")


def sixteen_bit() -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), 0x6400, dtype=np.uint16)), "PNG")


@pytest.mark.parametrize(
    ("image", "first", "last"),
    [
        (grey, (100, 100, 100), (100, 100, 100)),
        (palette_with_transparency, (255, 255, 255), (0, 0, 255)),  # what is transparent becomes white
        (half_transparent, (204, 204, 204), (204, 204, 204)),
        (cmyk, (0, 255, 255), (0, 255, 255)),
        (bilevel, (255, 255, 255), (255, 255, 255)),
        (sixteen_bit, (100, 100, 100), (100, 100, 100)),  # the upper byte: 0x64 of 0xff
    ],
)
def test_any_kind_of_image_becomes_rgb(
    image: Callable[[], bytes], first: tuple[int, ...], last: tuple[int, ...]
) -> None:
    decoded = decode(image())
    assert decoded.mode == "RGB"
    assert decoded.getpixel((0, 0)) == pytest.approx(first, abs=2)
    assert decoded.getpixel((3, 3)) == pytest.approx(last, abs=2)


def test_photograph_turned_by_exif_stands_upright() -> None:
    lying = Image.new("RGB", (16, 8), "red")
    exif = lying.getexif()
    exif[0x0112] = 6  # Orientation: turn by 90° to show
    assert decode(encoded(lying, "JPEG", exif=exif)).size == (8, 16)


# --- What is refused -------------------------------------------------------------------------------------------------


def huge_header() -> bytes:
    """A BMP that claims to be 60000 × 60000: PIL takes it for a decompression bomb."""
    content = bytearray(encoded(picture(), "BMP"))
    content[18:26] = (60000).to_bytes(4, "little") * 2
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"no image", b"", encoded(picture(), "PNG")[:60], encoded(picture(), "JPEG")[:200], huge_header()],
    ids=["text", "empty", "PNG cut off", "JPEG cut off", "decompression bomb"],
)
def test_image_that_cannot_be_decoded_fails_packing_with_its_path(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"animals/broken\.png can't be decoded"):
        pack([row("cat"), ImageRow(content, "cat", "animals/broken.png", "train")], tmp_path, "animals")


def test_failed_packing_leaves_nothing_that_could_be_taken_for_a_data_set(packed_animals: Path) -> None:
    with pytest.raises(InvalidInput, match="can't be decoded"):
        pack([row("cat"), ImageRow(b"no image", "cat", "broken", "train")], packed_animals, "animals", overwrite=True)
    with pytest.raises(InvalidInput, match="not a packed data set"):
        read_manifest(packed_animals)


def test_nothing_to_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no images"):
        pack([], tmp_path, "nothing")


def test_damaged_shard_is_named(packed_animals: Path) -> None:
    shard = packed_animals / "train-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[content.index(ROWS[1].image) + 20] ^= 1
    shard.write_bytes(content)
    images = ShardedImages(packed_animals, "train")
    assert images.encoded(0) == ROWS[0].image
    with pytest.raises(InvalidInput, match=r"train-00000\.parquet is damaged at image dog/1\.jpg.*CRC-32"):
        images.image(1)
    assert len(ShardedImages(packed_animals, "test")) == 2


def test_missing_shard_is_named(packed_animals: Path) -> None:
    (packed_animals / "train-00000.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"train-00000\.parquet of the manifest is missing"):
        ShardedImages(packed_animals, "train").image(0)


def test_unknown_split_names_those_there_are(packed_animals: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no split 'validation'; it has test, train"):
        ShardedImages(packed_animals, "validation")


@pytest.mark.parametrize("there", [True, False])
def test_folder_without_manifest_is_named(tmp_path: Path, there: bool) -> None:
    root = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(InvalidInput, match=f"{root} is not a packed data set"):
        read_manifest(root)


def test_manifest_of_a_newer_format_is_refused(packed_animals: Path) -> None:
    path = packed_animals / FILE_NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 3, "columns": ["new"]}))
    with pytest.raises(InvalidInput, match=rf"{path} has format version 3, this code reads 2: update the code"):
        read_manifest(packed_animals)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"format_version": "2"}', b'{"format_version": 2}', b"\xff\xfe\x00"],
    ids=["cut off", "list", "no version", "version is text", "no fields", "not text"],
)
def test_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(InvalidInput, match=f"{tmp_path / FILE_NAME} is not a manifest"):
        read_manifest(tmp_path)


# --- The data set that ships with the project ------------------------------------------------------------------------


def test_shipped_emoji_are_whole() -> None:
    root = DATASETS["emoji"]
    manifest = read_manifest(root)
    seen: list[set[str]] = []
    for name, split in manifest.splits.items():
        images = ShardedImages(root, name)  # checks the hashes
        seen.append({images.class_names[label] for label in images.labels})
        assert (len(images), len(seen[-1])) == (split.rows, split.classes)
        assert np.bincount(images.labels)[np.unique(images.labels)].min() >= 2  # every image can be a query
        assert images.image(0).mode == images.image(len(images) - 1).mode == "RGB"
    assert not set.intersection(*seen)
    assert set.union(*seen) == set(manifest.classes)


def test_data_set_is_found_by_name_or_by_folder(tmp_path: Path) -> None:
    assert locate("emoji", None) == str(DATASETS["emoji"])
    assert locate("mine", str(tmp_path)) == str(tmp_path)
    with pytest.raises(InvalidInput, match=r"'birds'.*emoji.*--data"):
        locate("birds", None)
