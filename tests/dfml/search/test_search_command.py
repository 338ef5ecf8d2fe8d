"""`python -m dfml.search` as a user runs it: ranking (against a loop), picture and messages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dfml import storage
from dfml.embed.__main__ import main as embed
from dfml.embedding_model import build_model
from dfml.recipe import recipe_from
from dfml.saved_model import load, save_model
from dfml.search.__main__ import main
from dfml.search.nearest import nearest_in
from dfml.search.picture import ITSELF, LOOK, QUERY
from tests.dfml.conftest import TINY, drawn_images
from tests.s3.locations import client_of, new_bucket, use
from tests.s3.servers import Server


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 12 images of 4 classes, one folder per class."""
    root = tmp_path_factory.mktemp("search") / "photos"
    for row in drawn_images("some", classes=4, images=3, seed=3):
        (root / row.path).parent.mkdir(parents=True, exist_ok=True)
        (root / row.path).write_bytes(row.image)
    return root


@pytest.fixture(scope="module")
def index(best: Path, photos: Path) -> Path:
    file = photos.parent / "index.parquet"
    assert embed(["--model", str(best), "--images", str(photos), "--out", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def query(photos: Path) -> Path:
    """Return an image that resembles one of the index but isn't in it."""
    file = photos.parent / "query [1].png"
    with Image.open(photos / "some" / "2" / "1.png") as image:
        image.resize((50, 50)).save(file)
    return file


def search(best: Path | str, index: Path | str, out: Path | str, *more: str | Path) -> int:
    return main(["--model", str(best), "--index", str(index), "--out", str(out), *map(str, more)])


def refused(code: int, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    printed, said = capsys.readouterr()
    assert (code, printed) == (2, "")
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert all(part in said for part in parts), said


def rows_of(printed: str) -> list[tuple[int, float, str]]:
    """Return rank, cosine and path of all rows of all tables."""
    found = re.findall(r"│ +(\d+) │ +(-?\d\.\d{3}) │ (.*?) +│", printed)
    return [(int(rank), float(cosine), path) for rank, cosine, path in found]


def framed(picture: Image.Image, line: int, column: int, lines: int) -> tuple[int, ...]:
    """Return the color of a cell's upper left corner; each cell has `lines` lines of caption."""
    x = LOOK.gap + column * (LOOK.side + LOOK.gap) + LOOK.apart * (column > 0)
    y = LOOK.gap + line * (LOOK.side + LOOK.caption(lines) + LOOK.gap)
    pixel = picture.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def test_it_prints_the_nearest_as_a_loop_finds_them_and_draws_them(
    best: Path, index: Path, query: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = photos / "some" / "0" / "2.png"
    out = tmp_path / "new folder" / "found.png"
    assert search(best, index, out, "--query", query, inside, "--top", "5") == 0
    printed = capsys.readouterr().out
    table = pq.read_table(index).to_pydict()
    model = load(best)
    expected = []
    for file in (query, inside):
        wanted = model.embed([Image.open(file)])[0].numpy()
        cosines = [float(np.dot(wanted, row)) for row in table["embedding"]]
        order = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:5]
        expected += [(rank, cosines[i], table["path"][i]) for rank, i in enumerate(order, start=1)]
    found = rows_of(printed)
    marked = [path.endswith("(the query itself)") for _, _, path in found]
    assert marked == [False] * 5 + [True] + [False] * 4
    assert [path.removesuffix("  (the query itself)") for _, _, path in found] == [path for _, _, path in expected]
    assert [(rank, pytest.approx(cosine, abs=6e-4)) for rank, cosine, _ in found] == [(r, c) for r, c, _ in expected]
    assert found[5][:2] == (1, 1.0)
    assert "query [1].png" in printed
    assert f"2 image(s) searched for among 12 (full path); drawn to {out}" in printed
    with Image.open(out) as picture:
        assert framed(picture, 0, 0, 3) == framed(picture, 1, 0, 3) == rgb(QUERY)
        assert framed(picture, 1, 1, 3) == rgb(ITSELF) != framed(picture, 0, 1, 3)


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
@pytest.mark.parametrize("top", [1, 6, 2000])
def test_ranking_in_blocks_is_that_of_a_loop_over_all(block: int, top: int) -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(1000, 8)).astype(np.float32)
    embeddings[500:] = embeddings[:500]  # ties: any order is right, but no image may occur twice
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    queries = torch.from_numpy(embeddings[[3, 700]] + 0.1)
    blocks = [
        ([str(i) for i in range(s, min(s + block, 1000))], embeddings[s : s + block]) for s in range(0, 1000, block)
    ]
    for query, found in zip(queries.numpy(), nearest_in(blocks, queries, top), strict=True):
        cosines = np.array([np.dot(row.astype(np.float64), query) for row in embeddings])
        assert len(found) == min(top, 1000)
        np.testing.assert_allclose([match.cosine for match in found], np.sort(cosines)[::-1][:top], atol=1e-5)
        np.testing.assert_allclose(cosines[[int(match.path) for match in found]], [m.cosine for m in found], atol=1e-5)
        assert len({match.path for match in found}) == len(found)


def test_queries_go_through_the_path_of_the_index(
    best: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    routed = tmp_path / "routed.parquet"
    assert embed(["--model", str(best), "--images", str(photos), "--out", str(routed), "--path", "routed"]) == 0
    assert search(best, routed, tmp_path / "a.png", "--query", photos / "some" / "1" / "0.png", "--top", "1") == 0
    printed = capsys.readouterr().out
    assert rows_of(printed) == [(1, 1.0, "some/1/0.png  (the query itself)")]
    assert "(routed path)" in printed


def test_images_that_moved_are_found_with_their_new_folder_and_those_gone_are_drawn_empty(
    best: Path, index: Path, query: Path, photos: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(photos, tmp_path / "moved")
    pictures = []
    for name in ("all", "one gone", "one damaged"):
        nearest = moved / "some" / "2" / "1.png"
        if name == "one gone":
            nearest.unlink()
        elif name == "one damaged":
            nearest.write_bytes(b"no image")
        out = tmp_path / f"{name}.png"
        assert search(best, index, out, "--query", query, "--images", moved, "--top", "3") == 0
        with Image.open(out) as picture:
            pictures.append(np.asarray(picture))
    assert search(best, index, tmp_path / "old.png", "--query", query, "--top", "3") == 0
    with Image.open(tmp_path / "old.png") as picture:
        assert np.array_equal(np.asarray(picture), pictures[0])
    first = LOOK.gap + LOOK.side + LOOK.gap + LOOK.apart  # left edge of the nearest
    for other in pictures[1:]:
        differs = np.nonzero((other != pictures[0]).any(axis=(0, 2)))[0]
        assert first <= differs.min() <= differs.max() < first + LOOK.side
        assert len(np.unique(other[LOOK.gap + 20, first + 10 : first + LOOK.side - 10])) == 3  # one color


def test_another_model_is_refused(
    best: Path, index: Path, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    save_model(tmp_path / "other", build_model(recipe_from(TINY)), {})
    code = search(tmp_path / "other", index, tmp_path / "a.png", "--query", query)
    refused(code, capsys, f"was made by another model ({best}", "embed the images again")
    assert not (tmp_path / "a.png").exists()


def test_a_damaged_index_is_one_sentence(
    best: Path, index: Path, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = index.read_bytes()
    middle = len(content) // 2
    damaged = {
        "cut.parquet": content[:middle],
        "empty.parquet": b"",
        "flipped.parquet": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    for name, bad in damaged.items():
        (tmp_path / name).write_bytes(bad)
        code = search(best, tmp_path / name, tmp_path / "a.png", "--query", query)
        refused(code, capsys, f"{name} can't be read as Parquet")
    assert not (tmp_path / "a.png").exists()


def test_what_cannot_be_searched_is_one_sentence(
    best: Path, index: Path, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    table = pq.read_table(index)
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "plain.parquet")
    newer = {**table.schema.metadata, b"dfml.format_version": b"2"}
    pq.write_table(table.replace_schema_metadata(newer), tmp_path / "newer.parquet")
    (tmp_path / "bad.png").write_bytes(b"no image")
    reason = "doesn't record which model made it"
    refused(search(best, tmp_path / "plain.parquet", out, "--query", query), capsys, reason)
    refused(search(best, tmp_path / "newer.parquet", out, "--query", query), capsys, "has format 2")
    refused(search(best, tmp_path / "no.parquet", out, "--query", query), capsys, "no.parquet doesn't exist")
    refused(search(best, tmp_path, out, "--query", query), capsys, "is a folder")
    refused(search(best, index, out, "--query", tmp_path / "no.png"), capsys, "no.png can't be read")
    refused(search(best, index, out, "--query", tmp_path / "bad.png"), capsys, "bad.png can't be decoded")
    refused(search(best, index, tmp_path / "a.jpg", "--query", query), capsys, "end it in .png")
    refused(search(best, index, out, "--query", query, "--top", "0"), capsys, "0 is too small")
    refused(search(best, index, out), capsys, "--query")
    assert not out.exists()


def test_index_and_picture_may_lie_on_s3(
    best: Path,
    index: Path,
    query: Path,
    tmp_path: Path,
    moto: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(moto, monkeypatch)
    bucket = new_bucket(moto)
    client_of(moto).put_object(Bucket=bucket, Key="i/index.parquet", Body=index.read_bytes())
    tables = []
    for uri, out in ((index, tmp_path / "a.png"), (f"s3://{bucket}/i/index.parquet", f"s3://{bucket}/found.png")):
        assert search(best, uri, out, "--query", query) == 0
        tables.append(rows_of(capsys.readouterr().out))
    assert len(tables[0]) == 10
    assert tables[0] == tables[1]
    assert storage.read(f"s3://{bucket}/found.png") == (tmp_path / "a.png").read_bytes()
    refused(search(best, f"s3://{bucket}/no", tmp_path / "a.png", "--query", query), capsys, "no doesn't exist")


def test_help_names_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "the images of an index",
        "(default: 10)",
        "(default: search.png)",
        "(default: the folder from which they were embedded)",
    ):
        assert part in text
