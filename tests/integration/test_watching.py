"""A running sweep in Prometheus, with the Grafana dashboard's queries, and in the Ray dashboard."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from browser import CHROMIUM, chromium, opened
from grafana import CALLBACKS, PANELS, metrics_in, queries
from playwright.sync_api import Page, expect
from ray_head import RAY, Head, end, free_port, ray_folder, ray_start, wait_for
from small_sweep import sweep_of

from dfml.data.datasets import REPOSITORY
from orchestration.sweep_folder.records import load_record
from tests import forked

pytestmark = [
    pytest.mark.integration,
    pytest.mark.views,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed"),
]

JOB = "watched"
PATIENCE = 500.0  # seconds
# Intervals for a short sweep: Ray's processes report metrics (in ms), and Prometheus scrapes them.
TOLD, ASKED = {"RAY_metrics_report_interval_ms": "1000"}, "scrape_interval: 1s"
# Epochs are so long that Prometheus scrapes the metrics of single steps.
LONGER = ("--set", "image_size=64", "--set", "batch_size=8")
# Only classification has this score.
ABSENT = {"ray_dfml_top_1"}


class Prometheus:
    """Debian's Prometheus, with the project's configuration for another folder and interval."""

    def __init__(self, url: str, began: float) -> None:
        self.url = url
        self._began = began

    def ask(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def drawn(self, query: str) -> list[Any]:
        """Return the series that a panel draws for the query, from the start until now."""
        asked = {"query": query, "start": str(self._began), "end": str(time.time()), "step": "2"}
        return self.ask("query_range", **asked)["result"]

    def by_trial(self, query: str) -> dict[str, float]:
        return {each["metric"]["trial"]: float(each["value"][1]) for each in self.ask("query", query=query)["result"]}


@contextmanager
def prometheus(head: Head, folder: Path) -> Iterator[Prometheus]:
    configuration = (CALLBACKS / "prometheus.yml").read_text()
    for ours, here in (("/tmp/ray/", f"{head.folder}/ray/"), ("scrape_interval: 10s", ASKED)):
        assert ours in configuration
        configuration = configuration.replace(ours, here)
    (folder / "prometheus.yml").write_text(configuration)
    port, log = free_port(), folder / "prometheus.log"
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    with log.open("w") as output:
        command = ["prometheus", *flags, f"--web.listen-address=127.0.0.1:{port}"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "ready to receive" in log.read_text() or process.poll() is not None, log.read_text)
        yield Prometheus(f"http://127.0.0.1:{port}", time.time())
    finally:
        end(process)


def ray(head: Head, *arguments: str) -> str:
    done = subprocess.run([RAY, *arguments], env=head.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def filled(query: str) -> str:
    """Fill in the selections that a person makes at the top of the dashboard."""
    return query.replace("$sweep", "sweep").replace("$trial", ".*")


def test_a_running_sweep_is_seen_in_prometheus_grafana_and_the_ray_dashboard(few_emoji: Path, tmp_path: Path) -> None:
    sweep = sweep_of(few_emoji, tmp_path, "sweep", trials=2).added(*LONGER)
    with (
        ray_folder() as folder,
        ray_start(folder, free_port(), "--num-cpus=2", **forked.workers(), **TOLD) as head,
        prometheus(head, tmp_path) as prom,
    ):
        command = f"cd {REPOSITORY} && {shlex.join(sweep.command)}"
        named = ["--submission-id", JOB, "--no-wait"]
        ray(head, "job", "submit", "--address", head.dashboard, *named, "--", "sh", "-c", command)

        def said() -> str:
            return ray(head, "job", "logs", "--address", head.dashboard, JOB)

        wait_for(lambda: set(prom.by_trial("ray_dfml_recall_at_1")) >= {"0", "1"}, said, PATIENCE)
        with chromium() as browser, opened(browser, head.dashboard) as (page, _):
            log_in(page, head)
            see_epochs(page, head, tmp_path / "ray-dashboard.png")
            see_graph(page, prom, tmp_path / "prometheus.png")
        wait_for(lambda: not without_data(prom), lambda: f"{without_data(prom)} show nothing\n{said()}")
        exist = set(prom.ask("label/__name__/values"))
        for query in (query for panel in PANELS if "GPU" not in panel["title"] for query in queries(panel)):
            assert metrics_in(query) - ABSENT <= exist
        record = load_record(str(sweep.folder), "000")
        assert record is not None
        for figure in ("recall_at_1", "best_score", "loss", "epoch"):
            # The sweep may have ended meanwhile, and its gauges with it.
            last = prom.by_trial(f"last_over_time(ray_dfml_{figure}[1h])")
            assert last["0"] == pytest.approx(record.epochs[-1][figure])
        loads = prom.drawn('ray_dfml_router_load{trial="0", router="3", sub_block="1"}')
        told = {float(value) for series in loads for _, value in series["values"]}
        assert told
        assert told <= {epoch["router_load"][3][1] for epoch in record.epochs}
        assert not prom.by_trial('ray_dfml_images_per_second{trial="0"}'), "trial 0 has ended"


def without_data(prom: Prometheus) -> list[str]:
    """Return the titles of the panels, except those of GPUs, with a query that draws nothing."""
    shown = (panel for panel in PANELS if "GPU" not in panel["title"])
    return [panel["title"] for panel in shown if not all(prom.drawn(filled(query)) for query in queries(panel))]


def log_in(page: Page, head: Head) -> None:
    """Log in to the Ray dashboard with the token, as a person does."""
    page.get_by_label("Authentication Token", exact=True).fill(ray(head, "get-auth-token").strip())
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Authentication Token Required")).to_be_hidden()


def see_epochs(page: Page, head: Head, picture: Path) -> None:
    """Check that the job's page shows the sweep's own lines, also those of epochs."""
    page.goto(f"{head.dashboard}/#/jobs/{JOB}")
    line = page.get_by_text("trial 1  epoch 1/3").first
    expect(line).to_be_visible(timeout=60_000)
    # The page redraws the element with each new line.
    line.evaluate("element => element.scrollIntoView()")
    page.screenshot(path=picture)


def see_graph(page: Page, prom: Prometheus, picture: Path) -> None:
    graph = {"g0.expr": "max by (trial) (ray_dfml_recall_at_1)", "g0.tab": "0", "g0.range_input": "5m"}
    page.goto(f"{prom.url}/graph?{urlencode(graph)}")
    expect(page.get_by_text('trial="1"').first).to_be_visible(timeout=30_000)
    page.screenshot(path=picture, full_page=True)
