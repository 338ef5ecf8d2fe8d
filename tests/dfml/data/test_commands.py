"""`python -m dfml.data` as a user runs it: output, exit codes and messages for invalid input."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfml.data.__main__ import main
from dfml.data.contact_sheet import SHEET_LOOK
from dfml.data.datasets import SHIPPED
from dfml.data.format.manifest import FILE_NAME, Manifest, read_manifest
from dfml.data.packing.pack import pack
from dfml.data.packing.progress import BytesDone
from tests.benchmark_layouts import LAYOUTS, imagenet_folders
from tests.images import ANIMALS
from tests.packed import class_folders, files_below
from tests.s3.locations import client_of, new_bucket, use
from tests.s3.servers import Server

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and returns its exit code, stdout and stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("folder") / "photos", classes=6, images=4)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    pack(ANIMALS, tmp_path / "animals", "animals")
    return tmp_path / "animals"


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """Check for exit code 2, empty stdout and one sentence on stderr with all of `parts`."""
    code, printed, said = result
    assert (code, printed) == (2, "")
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert all(part in said for part in parts), said


# --- pack -----------------------------------------------------------------------------------------


def test_pack_prints_counts_and_the_command_that_trains_on_it(run: Run, photos: Path, tmp_path: Path) -> None:
    code, printed, said = run("pack", "--root", photos, "--out", tmp_path / "my photos", "--dataset", "Birds")
    assert code == 0
    assert printed.splitlines() == [
        "train: 12 images of 3 classes",
        "test: 12 images of 3 classes",
        f"packed into {tmp_path}/my photos; train on it with: python run_sweep.py --dataset birds --data "
        f"'{tmp_path}/my photos' --search-space search_spaces/emoji.yaml",
    ]
    # Progress isn't printed: stderr isn't a terminal, and packing ends soon.
    assert re.fullmatch(rf"packing 24 images \([0-9.]+ ([kM]B|bytes)\) into {tmp_path}/my photos\n", said)
    assert read_manifest(tmp_path / "my photos").dataset == "birds"


def test_pack_with_bad_images_names_them_or_leaves_them_out(run: Run, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    (root / "class 03" / "0.png").write_text("no image")
    words = ("pack", "--root", root, "--out", tmp_path / "out")
    code, printed, said = run(*words)
    assert (code, printed) == (2, "")
    assert said.splitlines()[1] == (
        "error: class 03/0.png can't be decoded (not an image of a known format); fix or remove this image, or leave "
        "out images that can't be decoded with --skip-bad"
    )
    assert not (tmp_path / "out" / FILE_NAME).exists()
    code, printed, _ = run(*words, "--skip-bad")
    assert code == 0
    assert "left out: class 03/0.png (not an image of a known format)" in printed.splitlines()
    _, printed, _ = run("info", tmp_path / "out")
    assert "left out when it was packed: 1 image(s), the first class 03/0.png" in printed.splitlines()


def test_pack_of_a_table(run: Run, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "birds.csv"
    lines = [f"class 0{c}/{i}.png,{'train' if c < 3 else 'test'},kind {c}" for c in range(6) for i in range(2)]
    table.write_text("\n".join(["path,split,label", *lines]))
    code, printed, _ = run("pack", "--table", table, "--root", photos, "--out", tmp_path / "out")
    assert code == 0
    assert printed.splitlines()[:2] == ["train: 6 images of 3 classes", "test: 6 images of 3 classes"]
    refused(run("pack", "--table", table, "--out", tmp_path / "b"), "class 00/0.png", f"line 2 of {table}")
    refused(run("pack", "--table", tmp_path / "none.csv", "--out", tmp_path / "b"), "none.csv is not a file")


@pytest.mark.integration
def test_pack_of_a_packed_set_by_name_copies_it(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run("pack", "--dataset", "emoji", "--out", tmp_path)
    assert code == 0
    assert printed.splitlines()[0] == "train: 2612 images of 703 classes"
    assert read_manifest(tmp_path).classes == read_manifest(SHIPPED["emoji"]).classes


def test_counts_that_differ_are_a_warning_or_with_strict_an_error(run: Run, tmp_path: Path) -> None:
    LAYOUTS["cub"](tmp_path)
    words = ("pack", "--dataset", "CUB", "--root", tmp_path, "--out", tmp_path / "out")
    numbers = "cub's split 'train' has 15 images of 5 classes, but the publication has 5864 of 100"
    refused(run(*words, "--strict"), numbers, "without --strict")
    assert not (tmp_path / "out").exists()
    code, printed, said = run(*words)
    assert code == 0
    assert said.splitlines()[0] == f"warning: {numbers}"
    # No --search-space: the data set's own one is known.
    assert printed.splitlines()[-1].endswith(f"--dataset cub --data {tmp_path / 'out'}")
    assert read_manifest(tmp_path / "out").dataset == "cub"


def test_ones_own_folders_in_imagenets_layout(run: Run, tmp_path: Path) -> None:
    imagenet_folders(tmp_path)
    code, printed, _ = run("pack", "--layout", "imagenet", "--root", tmp_path, "--out", tmp_path / "out")
    assert code == 0
    assert printed.splitlines()[0] == "train: 12 images of 4 classes"
    assert printed.splitlines()[-1].endswith("--search-space search_spaces/imagenet.yaml")


def test_same_command_again_says_the_same(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ("pack", "--root", photos, "--out", tmp_path)
    first = run(*words)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run(*words) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_overwrite_is_asked_for_and_done(run: Run, photos: Path, animals: Path) -> None:
    before = files_below(animals)
    code, printed, said = run("pack", "--root", photos, "--out", animals)
    assert (code, printed) == (2, "")
    assert "holds another packed data set ('animals'" in said.splitlines()[-1]
    assert files_below(animals) == before
    assert run("pack", "--root", photos, "--out", animals, "--overwrite")[0] == 0
    assert read_manifest(animals).dataset == "mine"


def test_places_and_flags_that_cannot_be_used_are_one_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    out = tmp_path / "out"
    refused(run("pack", "--root", photos, "--out", file), str(file), "can't be written")
    refused(run("pack", "--root", photos, "--out", file / "below"), str(file), "can't be written")
    refused(run("pack", "--root", photos, "--out", "gs://bucket/x"), "gs://bucket/x", "s3://")
    refused(run("pack", "--out", out), "'mine'", "--root", "--table")
    refused(run("pack", "--root", tmp_path / "none", "--out", out), "none is not a folder")
    refused(run("pack", "--root", photos), "--out")
    for flag, value in [
        ("--test-share", "nan"),
        ("--test-share", "1.5"),
        ("--workers", "0"),
        ("--shard-size", "big"),
        ("--layout", "tree"),
    ]:
        refused(run("pack", "--root", photos, "--out", out, flag, value), flag, value)
    assert not out.exists()


def test_the_place_may_not_be_among_the_images(run: Run, photos: Path, animals: Path) -> None:
    """The next command would read the output as a class, or packing would overwrite its input."""
    refused(run("pack", "--root", photos, "--out", photos / "packed"), "--out", "is inside --root")
    before = files_below(animals)
    refused(run("pack", "--root", animals, "--out", animals, "--overwrite"), "--out is the packed data set", "itself")
    assert files_below(animals) == before


def test_a_folder_that_may_not_be_read_is_one_sentence(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, because the tests may run as root, who has every permission."""

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(photos / "class 00"))

    monkeypatch.setattr("dfml.data.__main__.read_folder", forbidden)
    refused(run("pack", "--root", photos, "--out", tmp_path / "out"), f"{photos / 'class 00'} may not be read")


def test_progress_off_a_terminal_is_a_line_now_and_then_by_the_pace_of_late(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that an earlier run finished is skipped at once and must not affect the estimate."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    mb = 10**6
    with BytesDone("packing") as progress:
        progress(800 * mb, 1000 * mb)
        now += 16
        progress(810 * mb, 1000 * mb)
        now += 1
        progress(811 * mb, 1000 * mb)
        now += 15
        progress(826 * mb, 1000 * mb)
    assert capsys.readouterr().err.splitlines() == [
        "packing: 810.0 MB of 1.0 GB, 4 s left",
        "packing: 826.0 MB of 1.0 GB, 174 s left",
    ]


# --- info and sample ------------------------------------------------------------------------------


def test_info_says_what_is_there(run: Run, animals: Path) -> None:
    code, printed, said = run("info", animals)
    assert (code, said) == (0, "")
    first, train, test = printed.splitlines()
    assert re.fullmatch(rf"animals at {animals}: format 2, manifest [0-9a-f]{{64}}", first)
    assert train.startswith("train: 3 images of 2 classes (1.5 per class), 1 shard(s), ")
    assert test.startswith("test: 2 images of 2 classes (1.0 per class), 1 shard(s), ")


def test_info_as_json_is_the_manifest_and_nothing_else(run: Run, animals: Path) -> None:
    code, printed, said = run("info", animals, "--json")
    assert (code, said) == (0, "")
    assert json.loads(printed)["splits"]["train"]["rows"] == 3
    assert Manifest.model_validate_json(printed) == read_manifest(animals)


def test_what_is_no_packed_data_set_is_one_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    for words in (["info"], ["info", "--json"], ["verify"], ["sample", "--out", str(tmp_path / "a.png")]):
        refused(run(*words, photos), f"{photos} is not a packed data set")
    assert not (tmp_path / "a.png").exists()


def drawn(sheet: Image.Image) -> int:
    """Return the number of cells of a contact sheet that hold a picture."""
    pixels = np.asarray(sheet)
    side = SHEET_LOOK.side
    uris = [
        (x, y)
        for y in range(SHEET_LOOK.gap, sheet.height - side, side + SHEET_LOOK.caption(1) + SHEET_LOOK.gap)
        for x in range(SHEET_LOOK.gap, sheet.width - side, side + SHEET_LOOK.gap)
    ]
    return sum(bool((pixels[y : y + side, x : x + side] != 255).any()) for x, y in uris)


@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (7, 7), (50, 12)])
def test_sample_draws_as_many_pictures_as_asked_or_as_there_are(
    run: Run, photos: Path, tmp_path: Path, asked: int, expected: int
) -> None:
    run("pack", "--root", photos, "--out", tmp_path)
    file = tmp_path / "new folder" / "sheet.png"
    code, printed, said = run("sample", tmp_path, "--out", file, "--split", "test", "--images", str(asked))
    assert (code, printed, said) == (0, f"{expected} of 12 test images drawn to {file}\n", "")
    with Image.open(file) as sheet:
        assert sheet.format == "PNG"
        assert drawn(sheet.convert("RGB")) == expected


def test_sample_names_what_cannot_be_used(run: Run, animals: Path, tmp_path: Path) -> None:
    refused(run("sample", animals, "--out", tmp_path / "a.jpg"), "a.jpg", ".png")
    refused(run("sample", animals, "--split", "query", "--out", tmp_path / "a.png"), "'query'", "test, train")
    (tmp_path / "file").write_text("in the way")
    refused(run("sample", animals, "--out", tmp_path / "file" / "a.png"), "a.png can't be written")


# --- All of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "pack", "info", "verify", "sample"])
def test_help_names_units_and_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in {
        "": ["pack|info|verify|sample"],
        "pack": ["--shard-size BYTES", "e.g. 64MB", "(default: 32MiB)", "0 to 1 (default: 0.5)", "cub, cars, sop"],
        "info": ["as JSON", "s3://"],
        "verify": ["exit code 1 if damaged", "number of processes"],
        "sample": ["(default: sample.png)", "(default: train)", "(default: 54)", "--cache-size BYTES"],
    }[command]:
        assert part in text


def test_a_process_of_its_own_prints_json_only_and_leaves_with_its_exit_code(animals: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dfml.data", "info", "--json"]
    done = subprocess.run([*command, str(animals)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["dataset"] == "animals"
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


@pytest.mark.integration
def test_all_commands_on_s3(
    run: Run, photos: Path, tmp_path: Path, moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(moto, monkeypatch)
    uri = f"s3://{new_bucket(moto)}/sets/mine"
    flags = ("--shard-size", "3kB", "--workers", "2")
    assert run("pack", "--root", photos, "--out", uri, *flags)[0] == 0
    assert run("pack", "--root", photos, "--out", tmp_path / "local", *flags)[0] == 0
    _, printed, _ = run("info", uri, "--json")
    assert Manifest.model_validate_json(printed) == read_manifest(tmp_path / "local")
    assert run("verify", uri, "--workers", "2")[:2] == (0, f"no problem(s) in 24 images and 6 shard(s) of {uri}\n")
    sheet = tmp_path / "sheet.png"
    code, printed, _ = run("sample", uri, "--out", sheet, "--images", "5", "--cache-dir", tmp_path / "cache")
    assert (code, printed) == (0, f"5 of 12 train images drawn to {sheet}\n")
    assert drawn(Image.open(io.BytesIO(sheet.read_bytes())).convert("RGB")) == 5
    assert not Path("s3:").exists()

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    listed = client_of(moto).list_objects_v2(Bucket=bucket)["Contents"]
    assert {item["Key"] for item in listed} == {f"{key}/{name}" for name in files_below(tmp_path / "local")}
    client_of(moto).delete_object(Bucket=bucket, Key=f"{key}/test-00001.parquet")
    assert run("verify", uri)[:2] == (
        1,
        f"test-00001.parquet is missing\n1 problem(s) in 24 images and 6 shard(s) of {uri}\n",
    )
    refused(run("info", f"s3://{bucket}/elsewhere"), "is not a packed data set")
