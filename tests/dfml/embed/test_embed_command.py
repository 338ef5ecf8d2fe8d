"""`python -m dfml.embed` as a user runs it: its file, output and messages for invalid input."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dfml import storage
from dfml.embed.__main__ import main
from dfml.embed.index_file import ROWS, Facts, open_index, write_index
from dfml.saved_model import load
from tests import forked
from tests.images import (
    cmyk,
    encoded,
    half_transparent,
    palette_with_transparency,
    picture,
    sixteen_bit,
    turned_by_exif,
)
from tests.s3.locations import new_bucket, use
from tests.s3.servers import Server

IMAGES = {
    "b/cmyk.jpg": cmyk(),
    "b/deeper/turned.jpg": turned_by_exif(),
    "a.png": encoded(picture(1), "PNG"),
    "b/palette.png": palette_with_transparency(),
    "b/sixteen.png": sixteen_bit(),
    "c/half [transparent] é.PNG": half_transparent(),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with images in nested folders, and files that aren't images by name."""
    root = tmp_path / "photos"
    for path, content in {**IMAGES, "notes.txt": b"", ".hidden.png": b"", "b/._cmyk.jpg": b""}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def embed(best: Path | str, photos: Path, out: Path | str, *more: str) -> int:
    return main(["--model", str(best), "--images", str(photos), "--out", str(out), *more])


def refused(code: int, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    printed, said = capsys.readouterr()
    assert (code, printed) == (2, "")
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert all(part in said for part in parts), said


@pytest.mark.parametrize("path", [None, "full", "routed"])
@pytest.mark.parametrize("batch", ["1", "4", "64"])
def test_each_row_is_what_the_model_makes_of_the_image(
    best: Path, photos: Path, tmp_path: Path, path: str | None, batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder" / "index.parquet"
    flags = [] if path is None else ["--path", path]
    assert embed(best, photos, out, "--batch-size", batch, *flags) == 0
    table = pq.read_table(out)
    assert table["path"].to_pylist() == sorted(IMAGES)
    opened = [Image.open(photos / name) for name in sorted(IMAGES)]
    expected = load(best).embed(opened, path)  # type: ignore[arg-type]
    found = torch.from_numpy(np.stack(table.to_pandas()["embedding"]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    printed, said = capsys.readouterr()
    assert re.fullmatch(
        rf"6 images embedded into {out} \(96 numbers each, {path or 'full'} path\), [\d,]+ images/s\n", printed
    )
    assert said == ""


def test_the_file_says_what_made_it_and_reads_as_plain_parquet(best: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    assert embed(best, photos, out, "--path", "routed") == 0
    schema = pq.read_schema(out)
    assert [(field.name, str(field.type)) for field in schema] == [
        ("path", "string"),
        ("embedding", "fixed_size_list<element: float>[96]"),
    ]
    said = {key.decode(): value.decode() for key, value in schema.metadata.items() if key.startswith(b"dfml.")}
    assert said == {
        "dfml.format_version": "1",
        "dfml.images": str(photos),
        "dfml.model": str(best),
        "dfml.model_sha256": hashlib.sha256((best / "model.safetensors").read_bytes()).hexdigest(),
        "dfml.inference": "routed",
    }


def test_model_and_index_may_lie_on_s3(
    best: Path, photos: Path, tmp_path: Path, moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(moto, monkeypatch)
    bucket = new_bucket(moto)
    storage.upload(best, f"s3://{bucket}/best")
    assert embed(f"s3://{bucket}/best", photos, f"s3://{bucket}/deep/index.parquet") == 0
    assert embed(best, photos, tmp_path / "index.parquet") == 0
    with (
        open_index(f"s3://{bucket}/deep/index.parquet") as there,
        open_index(str(tmp_path / "index.parquet")) as here,
    ):
        assert there.facts == here.facts.model_copy(update={"model": f"s3://{bucket}/best"})
        ((paths, embeddings),), ((expected_paths, expected),) = there.blocks(), here.blocks()
        assert paths == expected_paths
        assert np.array_equal(embeddings, expected)


def test_an_image_that_cannot_be_decoded_is_named_and_nothing_written(
    best: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b" / "bad.png").write_bytes(b"no image")
    (tmp_path / "index.parquet").write_text("as it was")
    code = embed(best, photos, tmp_path / "index.parquet")
    refused(code, capsys, "b/bad.png can't be decoded (not an image of a known format)", "--skip-bad")
    assert (tmp_path / "index.parquet").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.parquet", "photos"]


def test_an_image_far_longer_than_wide_is_left_out_before_it_is_resized(
    best: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size in {"z/most.png": (2, 200), "z/tall.png": (2, 201), "z/wide.png": (20_000, 2)}.items():
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(encoded(Image.new("RGB", size), "PNG"))
    code = embed(best, photos, tmp_path / "index.parquet")
    allowed = "but the longer side may be at most 100 times the shorter"
    refused(code, capsys, f"z/tall.png can't be decoded (2 × 201 pixels, {allowed})", "--skip-bad")
    assert embed(best, photos, tmp_path / "index.parquet", "--skip-bad") == 0
    assert pq.read_table(tmp_path / "index.parquet")["path"].to_pylist() == sorted([*IMAGES, "z/most.png"])
    assert f"left out: z/wide.png (20,000 × 2 pixels, {allowed})\n" in capsys.readouterr().err


@pytest.mark.parametrize("batch", ["1", "64"])
def test_skip_bad_leaves_it_out_names_and_counts_it(
    best: Path, photos: Path, tmp_path: Path, batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b/bad.png", "z.jpg"):
        (photos / name).write_bytes(b"no image")
    assert embed(best, photos, tmp_path / "index.parquet", "--skip-bad", "--batch-size", batch) == 0
    assert pq.read_table(tmp_path / "index.parquet")["path"].to_pylist() == sorted(IMAGES)
    printed, said = capsys.readouterr()
    assert printed.startswith("6 images embedded")
    assert said.splitlines() == [
        "left out: b/bad.png (not an image of a known format)",
        "left out: z.jpg (not an image of a known format)",
        "left out 2 of 8 images, which can't be decoded",
    ]


def test_what_cannot_be_embedded_is_one_sentence(
    best: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index.parquet"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.png").write_bytes(b"no image")
    refused(embed(best, tmp_path / "nowhere", out), capsys, "nowhere doesn't exist")
    refused(embed(best, tmp_path / "empty", out), capsys, "empty and the folders below it hold no image")
    refused(embed(best, photos / "a.png", out), capsys, "a.png is not a folder")
    refused(embed(best, tmp_path / "bad", out, "--skip-bad"), capsys, "none of the images can be decoded")
    refused(embed(photos, photos, out), capsys, "photos has no model.safetensors")
    refused(embed(best, photos, photos), capsys, "photos is a folder", "embeddings.parquet")
    refused(embed(best, photos, photos / "a.png" / "index.parquet"), capsys, "can't be written")
    refused(embed(best, photos, "gs://bucket/index.parquet"), capsys, "isn't supported")
    refused(embed(best, photos, out, "--batch-size", "0"), capsys, "0 is too small")
    (photos / "nothing.png").symlink_to(tmp_path / "gone.png")
    refused(embed(best, photos, out), capsys, "nothing.png is named like an image but isn't a file")
    (photos / "nothing.png").unlink()
    Path(os.fsdecode(os.fsencode(photos) + b"/\xff.png")).write_bytes(IMAGES["a.png"])
    refused(embed(best, photos, out), capsys, "isn't UTF-8")
    assert not out.exists()


def test_links_to_images_are_followed_and_those_to_folders_are_not(best: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "b" / "linked.png").symlink_to(photos / "a.png")
    (photos / "b" / "round").symlink_to(photos)  # a cycle
    root = tmp_path / "link to all"
    root.symlink_to(photos)
    assert embed(best, root, tmp_path / "index.parquet") == 0
    table = pq.read_table(tmp_path / "index.parquet")
    assert table["path"].to_pylist() == sorted([*IMAGES, "b/linked.png"])


def test_more_rows_than_a_row_group_holds_keep_their_order(tmp_path: Path) -> None:
    facts = Facts(images="/images", model="best", model_sha256="0" * 64, inference="full")
    numbers = np.arange(2 * ROWS + 5, dtype=np.float32)
    parts = np.array_split(numbers, 21)
    uri = str(tmp_path / "index.parquet")
    batches = (([str(int(i)) for i in part], np.stack([part, -part], axis=1)) for part in parts)
    assert write_index(uri, facts, 2, batches) == len(numbers)
    with open_index(uri) as index:
        blocks = list(index.blocks())
        assert (index.rows, index.facts) == (len(numbers), facts)
    assert max(len(paths) for paths, _ in blocks) <= ROWS
    assert [path for paths, _ in blocks for path in paths] == [str(int(i)) for i in numbers]
    assert np.array_equal(np.concatenate([block for _, block in blocks]), np.stack([numbers, -numbers], axis=1))
    assert pq.ParquetFile(uri).num_row_groups < len(parts) / 5


@pytest.mark.integration
def test_a_killed_run_leaves_what_was_there(best: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    out.write_text("as it was")
    command = [sys.executable, "-m", "dfml.embed", "--model", best, "--images", photos, "--out", out]
    for number in range(5000):  # more than can be embedded before the test sees the partial file
        (photos / f"copy {number}.png").symlink_to(photos / "a.png")
    with forked.Popen([*map(str, command), "--batch-size", "1"], stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob("index.parquet.*.partial")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert out.read_text() == "as it was"


def test_help_names_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "embed all images of a folder",
        "(default: 64)",
        "(default: the model's recipe)",
        "s3://",
        "path (relative to DIR)",
    ):
        assert part in text
