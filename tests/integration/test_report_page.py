"""The report of a real sweep, opened from disk in an offline browser, shows what the files hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page
from small_sweep import Sweep

from dfml.task import SCORE
from orchestration.report.curves import learning_curves
from orchestration.report.results import load_results
from orchestration.report.routers import router_load
from tests.browser import chromium, opened

pytestmark = pytest.mark.integration

PHONE = 390  # pixels


@pytest.fixture(scope="module")
def report(finished: tuple[Sweep, str]) -> Path:
    return finished[0].folder / "report"


def rows(report: Path, file: str) -> list[dict[str, str]]:
    with (report / file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def table(page: Page, id: str) -> list[dict[str, str]]:
    """Return a table as a reader sees it: one dictionary per row, by heading."""
    head = page.locator(f"#{id} thead th").all_inner_texts()
    lines = page.locator(f"#{id} tbody tr").all()
    return [dict(zip(head, line.locator("td").all_inner_texts(), strict=True)) for line in lines]


def test_it_opens_from_disk_without_a_network_and_shows_what_the_files_say(report: Path, tmp_path: Path) -> None:
    address = (report / "index.html").as_uri()
    results = json.loads((report / "results.json").read_text())
    with chromium() as browser:
        for width in (1280, PHONE):
            with opened(browser, address, width, offline=True) as (page, seen):
                page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
                images = page.locator("img")
                drawn = images.evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)")
                assert len(drawn) == len(list(report.glob("*.png"))) >= 9
                assert all(drawn)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert seen.errors == []
                assert seen.requests == [address]
        with opened(browser, address, offline=True) as (page, _):
            _trials_are_those_of_the_csv(page, report)
            _scores_are_those_of_the_results(page, results, report)
            for link in page.locator("a[download]").all():
                with page.expect_download() as download:
                    link.click()
                saved = tmp_path / download.value.suggested_filename
                download.value.save_as(saved)
                assert saved.read_bytes() == (report / saved.name).read_bytes()
            assert {file.name for file in tmp_path.glob("*.csv")} == {file.name for file in report.glob("*.csv")}


def _trials_are_those_of_the_csv(page: Page, report: Path) -> None:
    shown, told = table(page, "trials-table"), rows(report, "trials.csv")
    assert [row["trial"] for row in shown] == [row["trial"] for row in told]
    for row, line in zip(shown, told, strict=True):
        assert row["R@1"] == f"{float(line['best_validation_score']):.3f}"
        assert (row["K"], row["epochs"]) == (line["num_sub_blocks"], line["epochs"])
        assert row["lr"] == f"{float(line['lr']):.1e}"
        assert row["ended"].startswith(line["ended"])
    (marked,) = page.locator("#trials-table tr.marked td:first-child").all_inner_texts()
    assert [row["trial"] for row in told if row["winner"] == "1"] == [marked]


def _scores_are_those_of_the_results(page: Page, results: dict[str, dict[str, dict[str, float]]], report: Path) -> None:
    recall = results["test"]["winner"]["recall_at_1"]
    cards = page.locator(".cards li").all_inner_texts()
    assert cards[0].split("\n") == [f"{recall:.3f}", "R@1 on the test classes"]
    assert f"{recall:.1%} of the test images" in page.locator(".lead").inner_text()
    of_files = {row["of"]: row for row in rows(report, "test.csv")}
    for row in table(page, "test"):
        scores = results["test"][row[""]]
        assert float(of_files[row[""]]["map_at_r"]) == scores["map_at_r"]
        assert (row["R@1"], row["MAP@R"]) == (f"{scores['recall_at_1']:.3f}", f"{scores['map_at_r']:.3f}")


def test_the_figures_are_drawn_from_the_numbers_of_the_csv(report: Path) -> None:
    results = load_results(str(report.parent))
    assert results is not None
    curves = learning_curves(results).figure
    assert curves is not None
    told = rows(report, "epochs.csv")
    for line in curves.axes[0].lines:
        if str(line.get_gid()).startswith("trial"):
            of_trial = [row for row in told if f"trial {row['run']}" == line.get_gid()]
            assert line.get_xydata().tolist() == [[float(row["epoch"]), float(row[SCORE])] for row in of_trial]
    heat = router_load(results).figure
    assert heat is not None
    drawn = heat.axes[0].images[0].get_array()
    assert drawn is not None
    at_end = [row for row in rows(report, "router_load.csv") if int(row["epoch"]) == results.winner_epochs]
    assert len(at_end) == drawn.size
    for row in at_end:
        assert float(drawn[int(row["router"]), int(row["sub_block"])]) == float(row["load"])
    assert at_end[0]["name"].startswith("block ")
    assert {row["run"] for row in at_end} == {"seed 5"}
