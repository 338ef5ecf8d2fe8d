"""Packing: the distribution of images to shards, bad images, refusals, replacing and resuming."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dfml.data.format.manifest import FILE_NAME, read_manifest
from dfml.data.format.shards import ImageRow
from dfml.data.packing.cores import map_in_processes
from dfml.data.packing.journal import JOURNAL
from dfml.data.packing.pack import Packed, in_this_process, pack
from dfml.data.packing.readers import read_folder
from dfml.data.packing.readers.packed import read_packed
from dfml.data.packing.shard_plan import RUN, Job
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.errors import InvalidInput
from tests.images import ANIMALS, BAD, encoded, picture, row
from tests.packed import class_folders, files_below, many

SMALL = 20_000  # bytes per shard: about 40 of `many`'s images


def paths_in(shard: Path) -> list[str]:
    return pq.read_table(shard, columns=["path"])["path"].to_pylist()


def backwards(pack_one: Callable[[Job], Packed], jobs: Sequence[Job]) -> Generator[tuple[Job, Packed], None, None]:
    """Do the last job first, as a cluster may."""
    yield from in_this_process(pack_one, jobs[::-1])


# --- The plan -------------------------------------------------------------------------------------


def test_packing_twice_gives_the_same_files(tmp_path: Path) -> None:
    rows = many(12, 20) + many(3, 4, "test")
    assert pack(rows, tmp_path / "a", "many", SMALL) == pack(rows, tmp_path / "b", "many", SMALL)
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


@pytest.mark.parametrize(
    "run",
    [backwards, partial(map_in_processes, processes=2), partial(map_in_processes, processes=50)],
    ids=["backwards", "2", "50"],
)
def test_any_order_and_any_number_of_processes_give_the_very_files_of_one(tmp_path: Path, run: object) -> None:
    rows = [*many(12, 20), *many(3, 4, "test"), row("bad", image=b"no image")]
    pack(rows, tmp_path / "one", "many", SMALL, skip_bad=True)
    pack(rows, tmp_path / "more", "many", SMALL, skip_bad=True, run=run)  # type: ignore[arg-type]
    files = files_below(tmp_path / "one")
    assert len(files) > 6
    assert files == files_below(tmp_path / "more")


def test_several_shards_hold_each_image_once_in_short_runs_of_many_classes(tmp_path: Path) -> None:
    classes, images = 30, 20
    manifest = pack(many(classes, images), tmp_path, "many", SMALL)
    assert len(manifest.shards) > 10
    paths = [paths_in(tmp_path / shard.file) for shard in manifest.shards]
    every = list(itertools.chain(*paths))
    assert sorted(every) == sorted(image.path for image in many(classes, images))
    for shard in paths:
        assert len({Path(path).parent for path in shard}) >= min(4, len(shard) / RUN)
    # The same class may be drawn again right after: then two runs look like one.
    runs = [len(list(run)) for _, run in itertools.groupby(every, key=lambda path: Path(path).parent)]
    assert Counter(runs).most_common(1)[0][0] == RUN
    assert max(runs) <= 3 * RUN
    # Not class by class: the first shard doesn't hold the first classes.
    assert {Path(path).parent.name for path in paths[0]} != {str(c) for c in range(len(paths[0]) // images + 1)}


def test_a_split_that_fits_one_shard_keeps_its_order(tmp_path: Path) -> None:
    rows = many(5, 4)
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    (shard,) = pack(rows, tmp_path, "many").shards
    assert paths_in(tmp_path / shard.file) == [image.path for image in rows]


def test_labels_are_given_by_first_appearance(tmp_path: Path) -> None:
    rows = [row("b"), row("a", path="1"), row("c", "test"), row("a", "test", path="2"), row("b", path="3")]
    assert pack(rows, tmp_path, "letters").classes == ("b", "a", "c")
    assert ShardedImages(tmp_path, "train").labels.tolist() == [0, 1, 0]
    assert ShardedImages(tmp_path, "test").labels.tolist() == [2, 1]


def test_labels_are_those_of_first_appearance_in_several_shards_too(tmp_path: Path) -> None:
    manifest = pack(many(12, 20), tmp_path, "many", SMALL)
    assert manifest.classes == tuple(f"train {c}" for c in range(12))
    images = ShardedImages(tmp_path, "train")
    assert [f"train/{label}" for label in images.labels] == [str(Path(path).parent) for path in images.paths]


def test_shards_stay_below_their_size_unless_one_image_is_larger(tmp_path: Path) -> None:
    rows = [row(f"class {i}", image=encoded(picture(i), "BMP")) for i in range(10)]
    manifest = pack(rows, tmp_path / "3", "many", shard_bytes=3 * len(rows[0].image))
    assert [shard.rows for shard in manifest.shards] == [3, 3, 3, 1]
    assert [shard.rows for shard in pack(rows, tmp_path / "1", "many", shard_bytes=1).shards] == [1] * 10


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    rows = many(12, 20)
    pack(rows, tmp_path, "many", SMALL, progress=lambda done, total: said.append((done, total)))
    total = sum(image.size for image in rows)
    assert said[-1] == (total, total)
    assert said == sorted(said)


def test_a_packed_data_set_packed_again_keeps_its_labels_and_images(tmp_path: Path) -> None:
    first = pack([*many(12, 20), *many(3, 4, "test")], tmp_path / "a", "many", SMALL)
    again = pack(read_packed(tmp_path / "a"), tmp_path / "b", "many", 2 * SMALL)
    assert again.classes == first.classes
    for split in ("train", "test"):
        a, b = ShardedImages(tmp_path / "a", split), ShardedImages(tmp_path / "b", split)
        assert sorted((path, a.encoded(row), a.labels[row]) for row, path in enumerate(a.paths)) == sorted(
            (path, b.encoded(row), b.labels[row]) for row, path in enumerate(b.paths)
        )


def test_damage_isnt_packed_again_as_if_it_were_whole(tmp_path: Path) -> None:
    pack(ANIMALS, tmp_path / "a", "animals")
    shard = tmp_path / "a" / "train-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[content.index(ANIMALS[1].image) + len(ANIMALS[1].image) // 2] ^= 1  # still decodes
    shard.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"dog/1\.jpg can't be read .*damaged.*CRC-32"):
        pack(read_packed(tmp_path / "a"), tmp_path / "b", "animals", skip_bad=True)


# --- Images that can't be decoded -----------------------------------------------------------------


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_image_that_cannot_be_decoded_fails_packing_with_its_path(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(
        InvalidInput, match=r"^animals/broken\.png can't be decoded \([^)]+.*fix or remove this"
    ) as refusal:
        pack([row("cat"), ImageRow(content, "cat", "animals/broken.png", "train")], tmp_path, "animals")
    assert "\n" not in str(refusal.value)
    assert "0x" not in str(refusal.value)  # no memory address
    assert not (tmp_path / FILE_NAME).exists()


def test_the_first_of_several_bad_images_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    bad = [ImageRow(b"no image", "cat", f"bad/{i}", "train") for i in range(6)]
    sentence = r"bad/0 can't be decoded \(.*\), nor can 5 more \(bad/1, bad/2, bad/3 …\); fix.*--skip-bad"
    with pytest.raises(InvalidInput, match=sentence):
        pack([row("cat"), *bad], tmp_path, "animals", shard_bytes=1)
    assert not (tmp_path / FILE_NAME).exists()


def test_failed_packing_leaves_nothing_that_could_be_taken_for_a_data_set(tmp_path: Path) -> None:
    pack(ANIMALS, tmp_path, "animals")
    with pytest.raises(InvalidInput, match="can't be decoded"):
        pack([row("cat"), ImageRow(b"no image", "cat", "broken", "train")], tmp_path, "animals", overwrite=True)
    with pytest.raises(InvalidInput, match="not a packed data set"):
        read_manifest(tmp_path)


def test_skip_bad_leaves_them_out_and_records_them(tmp_path: Path) -> None:
    bad = ImageRow(b"no image", "cat", "bad.png", "train")
    manifest = pack([ANIMALS[0], bad, *ANIMALS[1:]], tmp_path, "animals", skip_bad=True)
    assert [(image.path, image.reason) for image in manifest.dropped] == [("bad.png", "not an image of a known format")]
    assert ShardedImages(tmp_path, "train").paths == [animal.path for animal in ANIMALS[:3]]
    assert manifest.splits["train"].rows == 3


def test_skip_bad_leaves_out_a_whole_shard_class_or_split(tmp_path: Path) -> None:
    bad = [ImageRow(b"no image", "gnu", f"bad/{i}", split) for i in range(2) for split in ("train", "query")]
    manifest = pack([ANIMALS[0], *bad, *ANIMALS[1:]], tmp_path, "animals", shard_bytes=1, skip_bad=True)
    assert list(manifest.splits) == ["train", "test"]
    assert (manifest.splits["train"].rows, manifest.splits["train"].classes) == (3, 2)
    assert sorted(image.path for image in manifest.dropped) == ["bad/0", "bad/0", "bad/1", "bad/1"]
    images = ShardedImages(tmp_path, "train")
    assert sorted(images.encoded(i) for i in range(3)) == sorted(animal.image for animal in ANIMALS[:3])
    named = {shard.file for shard in manifest.shards} | {split.index.file for split in manifest.splits.values()}
    assert set(files_below(tmp_path)) == named | {FILE_NAME}


def test_nothing_but_bad_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="none of the images"):
        pack([ImageRow(b"no image", "cat", "bad", "train")], tmp_path, "animals", skip_bad=True)


def test_nothing_to_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no images"):
        pack([], tmp_path, "nothing")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_image_that_is_away_is_not_taken_for_a_bad_one(tmp_path: Path, skip_bad: bool) -> None:
    """If a disk isn't mounted on one machine of a cluster, its images must not be skipped."""
    sources = read_folder(class_folders(tmp_path / "photos", classes=4, images=2))
    sources[3].file.unlink()
    with pytest.raises(InvalidInput, match=rf"^{sources[3].path} can't be read .*on each machine"):
        pack(sources, tmp_path / "out", "mine", skip_bad=skip_bad, run=partial(map_in_processes, processes=2))
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_an_image_that_became_shorter_meanwhile_is_refused(tmp_path: Path) -> None:
    sources = read_folder(class_folders(tmp_path / "photos", classes=4, images=2))
    os.truncate(sources[0].file, 20)
    with pytest.raises(InvalidInput, match=r"can't be read .*ends after 20 bytes"):
        pack(sources, tmp_path / "out", "mine", skip_bad=True)


# --- Data sets and files that exist already -------------------------------------------------------


def test_the_same_data_set_again_is_done_at_once(tmp_path: Path) -> None:
    rows = many(12, 20)
    first = pack(rows, tmp_path, "many", SMALL)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def never(pack_one: object, jobs: object) -> Generator[tuple[Job, Packed], None, None]:
        raise AssertionError("nothing is to be done")

    assert pack(rows, tmp_path, "many", SMALL, run=never) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("change", ["name", "images", "class", "shard size"])
def test_another_data_set_at_the_place_is_refused(tmp_path: Path, change: str) -> None:
    rows = many(12, 20)
    pack(rows, tmp_path, "many", SMALL)
    before = files_below(tmp_path)
    other = rows[:-1] if change == "images" else rows
    if change == "class":
        other = [*rows[:-1], ImageRow(rows[-1].image, "train 0", rows[-1].path, "train")]
    name, size = ("other", SMALL) if change == "name" else ("many", SMALL // 2 if change == "shard size" else SMALL)
    with pytest.raises(InvalidInput, match=rf"{tmp_path} holds another packed data set \('many', .*--overwrite"):
        pack(other, tmp_path, name, size)
    assert files_below(tmp_path) == before


def test_overwrite_replaces_it_and_leaves_no_old_file(tmp_path: Path) -> None:
    pack([*many(12, 20), *many(2, 2, "query")], tmp_path / "a", "many", SMALL)
    (tmp_path / "a" / "notes.txt").write_text("the user's own")
    pack(ANIMALS, tmp_path / "a", "animals", overwrite=True)
    pack(ANIMALS, tmp_path / "b", "animals")
    assert files_below(tmp_path / "a") == {**files_below(tmp_path / "b"), "notes.txt": b"the user's own"}


def test_data_set_of_an_older_format_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    pack(ANIMALS, tmp_path, "animals")
    whole = files_below(tmp_path)
    manifest = tmp_path / FILE_NAME
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 1}))
    with pytest.raises(InvalidInput, match="can't read; name another folder or URI, or pass --overwrite"):
        pack(ANIMALS, tmp_path, "animals")
    pack(ANIMALS, tmp_path, "animals", overwrite=True)
    assert files_below(tmp_path) == whole


def test_overwriting_that_was_cut_short_leaves_no_old_file_either(tmp_path: Path) -> None:
    pack([*many(12, 20), *many(2, 2, "query")], tmp_path / "a", "many", SMALL)
    with pytest.raises(ZeroDivisionError):
        pack(many(12, 20, "test"), tmp_path / "a", "many", SMALL, overwrite=True, progress=lambda done, total: 1 // 0)
    assert not (tmp_path / "a" / FILE_NAME).exists()
    # No complete data set is left, so --overwrite isn't needed.
    pack(ANIMALS, tmp_path / "a", "animals")
    pack(ANIMALS, tmp_path / "b", "animals")
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def test_a_run_killed_right_after_its_manifest_is_tidied_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = many(12, 20)
    with monkeypatch.context() as patched:
        patched.setattr("dfml.data.packing.pack.tidy", lambda uri, manifest: None)
        pack(rows, tmp_path / "a", "many", SMALL)
    assert (tmp_path / "a" / JOURNAL).is_dir()
    pack(rows, tmp_path / "a", "many", SMALL)
    pack(rows, tmp_path / "b", "many", SMALL)
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
    assert not (tmp_path / "a" / JOURNAL).exists()


# --- Going on -------------------------------------------------------------------------------------


def cut_short(sources: Sequence[object], uri: Path) -> None:
    """Pack a third of the shards."""

    def stop(done: int, total: int) -> None:
        if done > total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(sources, uri, "mine", SMALL, progress=stop)  # type: ignore[arg-type]
    assert not (uri / FILE_NAME).exists()
    assert (uri / JOURNAL).is_dir()


def test_what_was_finished_isnt_done_again(tmp_path: Path) -> None:
    sources = read_folder(class_folders(tmp_path / "photos", classes=12, images=10))
    cut_short(sources, tmp_path / "a")
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").glob("*.parquet")}
    assert len(finished) >= 2
    pack(sources, tmp_path / "a", "mine", SMALL)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    pack(sources, tmp_path / "b", "mine", SMALL)
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


@pytest.mark.parametrize("same_size", [False, True])
def test_an_image_mended_between_two_runs_is_taken(tmp_path: Path, same_size: bool) -> None:
    root = class_folders(tmp_path / "photos", classes=12, images=10)
    for file in root.rglob("*.png"):
        file.with_suffix(".bmp").write_bytes(encoded(picture(int(file.stem)), "BMP"))  # all of one size
        file.unlink()
    sources = read_folder(root)
    cut_short(sources, tmp_path / "a")
    mended = paths_in(tmp_path / "a" / "train-00000.parquet")[0]
    new = encoded(picture(77), "BMP") + b"" if same_size else encoded(picture(77).resize((9, 5)), "BMP")
    (root / mended).write_bytes(new)
    pack(read_folder(root), tmp_path / "a", "mine", SMALL)
    images = ShardedImages(tmp_path / "a", "train")
    assert images.encoded(images.paths.index(mended)) == new


def test_another_shard_size_after_a_killed_run_leaves_nothing_of_it(tmp_path: Path) -> None:
    sources = read_folder(class_folders(tmp_path / "photos", classes=12, images=10))
    cut_short(sources, tmp_path / "a")
    pack(sources, tmp_path / "a", "mine")
    pack(sources, tmp_path / "b", "mine")
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def test_bad_images_that_were_left_out_are_no_longer_accepted_without_skip_bad(tmp_path: Path) -> None:
    rows = [*many(12, 20), row("bad", image=b"no image", path="bad.png")]
    with pytest.raises(ZeroDivisionError):
        pack(rows, tmp_path, "many", skip_bad=True, progress=lambda done, total: 1 // 0)
    with pytest.raises(InvalidInput, match=r"bad\.png can't be decoded"):
        pack(rows, tmp_path, "many")
