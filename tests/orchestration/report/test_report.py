"""The report's files, without a browser: the folder, the page, and the escaping of foreign text."""

from __future__ import annotations

import base64
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dfml.data.packing.pack import pack
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.sharded_images import ShardedImages
from orchestration.report.gallery import galleries
from orchestration.report.report import write_report
from orchestration.report.results import Results
from orchestration.report.style import RIGHT, WRONG
from orchestration.sweep_file import SweepFile
from orchestration.trials.retrievals import GROUPS, picture_of
from tests.packed import many
from tests.plans import plan_of
from tests.sweep_results import SPACE, begun, page_of, record, results_of_trials, trials

EVIL = '<script>alert(1)</script> & "quotes" <b>'
TOLD = [
    ("finished", [0.4, 0.5, 0.5, 0.5]),
    ("stopped", [0.3, 0.6]),
    ("failed", [0.2]),
    ("finished", [0.4, 0.5, 0.6, 0.7]),
]


class Page(HTMLParser):
    """The tags of a page, and the files in its links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    @property
    def downloads(self) -> dict[str, bytes]:
        links = [of for tag, of in self.tags if tag == "a" and "download" in of]
        return {str(of["download"]): base64.b64decode(str(of["href"]).split(";base64,")[1]) for of in links}


def retrieval(drawn: str, query: int) -> dict[str, Any]:
    return {
        "query": query,
        "drawn": drawn,
        "nearest": [query + 1, query + 2],
        "right": [False, True],
        "cosine": [0.91, 0.5],
        "rank_of_first_match": 1,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    pack(many(4, 6) + many(3, 12, split="test"), root, "few")
    return root


def sweep_in(parent: Path, data: Path) -> Results:
    """Return the results of a sweep whose plan is stored and whose report isn't written."""
    folder = str(parent / "a <sweep>")
    SweepFile.of(plan_of(SPACE, trials=len(TOLD), data=str(data))).save(folder)
    records = trials(*TOLD)
    records[2].reason = EVIL
    shown = [retrieval(group, 3 * i) for i, group in enumerate(GROUPS)]
    return results_of_trials(records, sweep=folder, data=str(data), retrievals=shown, front=[])


@pytest.fixture
def sweep(data: Path, tmp_path: Path) -> Results:
    return sweep_in(tmp_path, data)


@pytest.fixture(scope="module")
def report(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, str]:
    """Write a report; return its folder, its page and the page's text."""
    return written(sweep_in(tmp_path_factory.mktemp("report"), data))


@pytest.fixture
def sweep_with_report(report: tuple[Path, Page, str], sweep: Results) -> Results:
    """Return the results of a sweep that only this test uses and whose report is written."""
    shutil.copytree(report[0], Path(sweep.sweep, "report"))
    return sweep


def written(sweep: Results) -> tuple[Path, Page, str]:
    stored = SweepFile.load(sweep.sweep)
    assert stored is not None
    write_report(sweep, stored, Cache())
    folder = Path(sweep.sweep, "report")
    html = (folder / "index.html").read_text()
    return folder, Page(html), html


def test_every_csv_is_in_the_page_as_it_is_beside_it(report: tuple[Path, Page, str]) -> None:
    folder, page, _ = report
    assert page.downloads == {file.name: file.read_bytes() for file in folder.glob("*.csv")}
    assert {"trials.csv", "epochs.csv", "test.csv", "router_load.csv", "retrievals.csv"} <= set(page.downloads)


def test_every_figure_is_in_the_page_as_it_is_beside_it(report: tuple[Path, Page, str]) -> None:
    folder, page, _ = report
    images = [of for tag, of in page.tags if tag == "img"]
    inside = [base64.b64decode(str(of["src"]).removeprefix("data:image/png;base64,")) for of in images]
    assert sorted(inside) == sorted(file.read_bytes() for file in folder.glob("*.png"))
    assert all(of["alt"] for of in images)
    assert {f"{picture_of(group)}.png" for group in GROUPS} <= {file.name for file in folder.glob("*.png")}


def test_the_page_loads_nothing_and_runs_nothing(report: tuple[Path, Page, str]) -> None:
    _, page, html = report
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object")]
    for _, of in page.tags:
        for name in ("src", "href"):
            assert (of.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in of if name.startswith("on")]
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_what_others_wrote_is_text_not_markup(report: tuple[Path, Page, str]) -> None:
    _, _, html = report
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34; &lt;b&gt;" in html
    assert "<title>a &lt;sweep&gt; – sweep report</title>" in html


def test_every_entry_of_the_contents_has_its_place(report: tuple[Path, Page, str]) -> None:
    _, page, _ = report
    ids = {of["id"] for _, of in page.tags if "id" in of}
    targets = {str(of["href"])[1:] for tag, of in page.tags if tag == "a" and str(of.get("href")).startswith("#")}
    assert targets <= ids
    assert len(targets) >= 11


@pytest.mark.integration
def test_written_again_a_figure_that_is_left_out_goes(sweep_with_report: Results) -> None:
    sweep = sweep_with_report
    folder = Path(sweep.sweep, "report")
    mistakes, parallel = folder / f"{picture_of('surest mistake')}.png", folder / "parallel_coordinates.png"
    assert mistakes.exists()
    assert parallel.exists()
    found = [row for row in sweep.retrievals if row["drawn"] == "random"]
    written(sweep.model_copy(update={"trials": sweep.trials[:1], "winner": 0, "retrievals": found}))
    assert not mistakes.exists()
    assert not parallel.exists()
    assert (folder / f"{picture_of('random')}.png").exists()
    assert (folder / "learning_curves.png").exists()


def test_the_gallery_marks_right_and_wrong_and_shows_the_images(sweep: Results, data: Path) -> None:
    images = ShardedImages(data, "test")
    for gallery in galleries(sweep, Cache()):
        (row,) = [row for row in sweep.retrievals if GROUPS[row["drawn"]].title == gallery.title]
        colors = {color: count for count, color in gallery.picture.getcolors(2**20) or []}
        for wanted in (RIGHT, WRONG):
            assert colors[tuple(bytes.fromhex(wanted[1:]))] > 1000
        found = set(colors)
        for shown in (row["query"], *row["nearest"]):
            assert {color for _, color in images.image(shown).getcolors() or []} & found


def test_a_classifier_has_no_gallery(sweep: Results) -> None:
    assert galleries(sweep.model_copy(update={"retrievals": []}), Cache()) == []
    assert 'id="retrievals"' not in page_of(results_of_trials([record(0, 0.5)]))


def test_the_page_says_what_was_run() -> None:
    html = page_of(results_of_trials(trials(*TOLD)), begun(SPACE, reproductions=2))
    for said in ("python run_sweep.py --seed 7", "torch 2.14.1", "0.0001 to 0.01, logarithmic"):
        assert said in html
    assert 'dfml.load("sweeps/a/best")' in html


def test_a_classifiers_page_speaks_of_top_1() -> None:
    one = record(0, 0.5)
    one.recipe = one.recipe.model_copy(update={"loss": "cross_entropy"})
    of = results_of_trials([one], test={"winner": {"top_1": 0.7, "top_5": 0.9}}, reproductions=[], interval={})
    html = page_of(of)
    assert "it predicts the right class for 70.0% of the test images." in html
    assert "<b>0.700</b><span>top-1 on the test images</span>" in html
    assert "model.classify(" in html
    assert "R@1" not in html.replace("recall@1", "").replace("R@1 against", "")
