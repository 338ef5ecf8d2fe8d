"""Every layout packed and read back, whole and with images that are unusual or bad."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dfml.data.format.manifest import FILE_NAME, Manifest
from dfml.data.packing.pack import pack
from dfml.data.packing.readers import read_benchmark_set, read_folder, read_table
from dfml.data.packing.source import ImageSource
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.errors import InvalidInput
from tests.benchmark_layouts import IMAGES, LAYOUTS, draw, imagenet_folders, imagenet_tars
from tests.images import cmyk, encoded, palette_with_transparency, sixteen_bit, turned_by_exif
from tests.packed import files_below


def folder(root: Path) -> None:
    for number in range(6):
        for i in range(IMAGES):
            draw(root / f"class {number}" / "deeper" / f"{i}.jpg", number, i)


def table(root: Path) -> None:
    folder(root / "images")
    files = sorted((root / "images").rglob("*.jpg"))
    lines = [f"{file.relative_to(root)},{file.parent.parent.name}" for file in files]
    (root / "table.csv").write_text("\n".join(["path,label", *lines]))


Layout = tuple[Callable[[Path], None], Callable[[Path], list[ImageSource]]]  # makes a miniature; reads it
READERS: dict[str, Layout] = {
    **{name: (LAYOUTS[name], lambda root, name=name: read_benchmark_set(name, root)) for name in LAYOUTS},
    "ImageNet, folders": (imagenet_folders, lambda root: read_benchmark_set("imagenet", root)),
    "ImageNet, tars": (imagenet_tars, lambda root: read_benchmark_set("imagenet", root)),
    "folder": (folder, read_folder),
    "table": (table, lambda root: read_table(root / "table.csv")),
}


@pytest.fixture(params=READERS)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    make, read = READERS[request.param]
    make(tmp_path / "root")
    return make, read


def plant(root: Path, source: ImageSource, image: bytes) -> None:
    """Replace an image by another one, in its file or in its tar."""
    if source.file.suffix != ".tar":
        source.file.write_bytes(image)
        return
    # A tar member keeps its size; decoders ignore bytes after an image's end.
    content = bytearray(source.file.read_bytes())
    content[source.offset : source.offset + source.size] = image.ljust(source.size, b"\0")[: source.size]
    source.file.write_bytes(content)


def assert_same(manifest: Manifest, uri: Path, sources: list[ImageSource]) -> None:
    """Check that the images that are read back are those that the reader listed."""
    found = []
    for split, counts in manifest.splits.items():
        images = ShardedImages(uri, split)
        assert len(images) == counts.rows
        for row, path in enumerate(images.paths):
            found.append((split, path, images.class_names[images.labels[row]], images.encoded(row)))
    assert sorted(found) == sorted((s.split, s.path, s.class_name, s.read()) for s in sources)


@pytest.mark.parametrize("shard_bytes", [2**25, 6_000], ids=["one shard", "several"])
def test_every_layout_comes_back_as_it_was_read(layout: Layout, tmp_path: Path, shard_bytes: int) -> None:
    sources = layout[1](tmp_path / "root")
    manifest = pack(sources, tmp_path / "out", "mine", shard_bytes)
    assert_same(manifest, tmp_path / "out", sources)
    assert len(manifest.shards) >= (2 if shard_bytes == 2**25 else 4)
    sample = sources[len(sources) // 2]
    images = ShardedImages(tmp_path / "out", sample.split)
    with Image.open(io.BytesIO(sample.read())) as image:
        assert np.array_equal(np.asarray(images.image(images.paths.index(sample.path))), np.asarray(image))


@pytest.mark.parametrize(
    ("image", "size", "first"),
    [
        (cmyk(), (16, 16), (0, 255, 255)),
        (sixteen_bit(), (4, 4), (100, 100, 100)),
        (palette_with_transparency(), (4, 4), (255, 255, 255)),
        (turned_by_exif(), (8, 16), (255, 0, 0)),
    ],
    ids=["CMYK JPEG", "16-bit PNG", "palette with transparency", "turned by EXIF"],
)
def test_unusual_images_have_the_right_pixels_in_every_layout(
    layout: Layout, tmp_path: Path, image: bytes, size: tuple[int, int], first: tuple[int, int, int]
) -> None:
    """The file's extension doesn't matter."""
    source = layout[1](tmp_path / "root")[1]
    plant(tmp_path / "root", source, image)
    sources = layout[1](tmp_path / "root")
    manifest = pack(sources, tmp_path / "out", "mine")
    assert_same(manifest, tmp_path / "out", sources)
    images = ShardedImages(tmp_path / "out", source.split)
    decoded = images.image(images.paths.index(source.path))
    assert (decoded.mode, decoded.size) == ("RGB", size)
    assert decoded.getpixel((0, 0)) == pytest.approx(first, abs=3)


@pytest.mark.parametrize("kind", ["truncated JPEG", "text", "empty"])
def test_bad_images_are_one_sentence_or_left_out_in_every_layout(layout: Layout, tmp_path: Path, kind: str) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    sources = layout[1](root)
    bad = [sources[1], sources[-1]]
    for source in bad:
        content = source.read()
        plant(root, source, {"truncated JPEG": content[: len(content) // 2], "text": b"Not found", "empty": b""}[kind])
    sources = layout[1](root)
    with pytest.raises(InvalidInput) as refusal:
        pack(sources, out, "mine", 6_000)
    sentence = str(refusal.value)
    assert sentence.startswith(f"{bad[0].path} can't be decoded (")
    assert f"nor can 1 more ({bad[1].path}); fix" in sentence
    assert "\n" not in sentence
    assert not (out / FILE_NAME).exists()
    assert not list(out.rglob("*.partial"))
    manifest = pack(sources, out, "mine", 6_000, skip_bad=True)
    assert {image.path for image in manifest.dropped} == {source.path for source in bad}
    assert_same(manifest, out, [source for source in sources if source.path not in {image.path for image in bad}])


def test_imagenet_from_tars_is_imagenet_from_folders_to_the_byte(tmp_path: Path) -> None:
    imagenet_folders(tmp_path / "folders")
    imagenet_tars(tmp_path / "tars")
    for name in ("folders", "tars"):
        pack(read_benchmark_set("imagenet", tmp_path / name), tmp_path / f"{name} packed", "imagenet", 6_000)
    files = files_below(tmp_path / "folders packed")
    assert len(files) > 4
    assert files == files_below(tmp_path / "tars packed")


def test_a_tar_that_ends_within_its_last_image_is_refused(tmp_path: Path) -> None:
    """A download was cut short: `skip_bad` must not skip its images as bad ones."""
    imagenet_tars(tmp_path / "root")
    file = tmp_path / "root" / "ILSVRC2012_img_val.tar"
    with tarfile.open(file) as tar:
        last = tar.getmembers()[-1]
    file.write_bytes(file.read_bytes()[: last.offset_data + last.size // 2])
    with pytest.raises(InvalidInput, match=r"ILSVRC2012_img_val\.tar.*(ends after|can't be read)"):
        pack(read_benchmark_set("imagenet", tmp_path / "root"), tmp_path / "out", "imagenet", skip_bad=True)
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_color_profiles_do_not_keep_an_image_from_being_packed(tmp_path: Path) -> None:
    folder(tmp_path / "root")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = read_folder(tmp_path / "root")[0]
    source.file.write_bytes(encoded(Image.new("RGB", (8, 8), "red"), "JPEG", icc_profile=profile, quality=100))
    pack(read_folder(tmp_path / "root"), tmp_path / "out", "mine")
    images = ShardedImages(tmp_path / "out", source.split)
    assert images.image(images.paths.index(source.path)).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=3)
