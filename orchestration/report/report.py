"""The report's files: the page, each chart as PNG, and the numbers as CSV."""

from __future__ import annotations

from dfml import storage
from dfml.data.streaming.cache import Cache
from orchestration.report import gallery, optuna_charts, routers
from orchestration.report.costs import time_of_trials
from orchestration.report.curves import learning_curves
from orchestration.report.improvement import improvement
from orchestration.report.numbers import csv_files
from orchestration.report.optuna_charts import Search
from orchestration.report.page import ABOUT, page
from orchestration.report.results import Results
from orchestration.report.style import Chart, png, styled
from orchestration.sweep_file import SweepFile
from orchestration.sweep_folder import layout
from orchestration.trials.retrievals import GROUPS, picture_of


def write_report(results: Results, begun: SweepFile, cache: Cache) -> None:
    """Write the files of `report/`, the page last.

    `results.json` isn't among them: its presence means that the sweep has ended.

    Args:
        results: the results of the sweep.
        begun: the contents of its `sweep.json`.
        cache: the cache for shown images that are fetched from S3.
    """
    plan = begun.plan
    search = Search(results, plan.space, plan.objectives)
    better = improvement(results, plan.space, plan.defaults().epochs, plan.dataset)
    shown = gallery.galleries(results, cache)
    with styled():
        charts = draw(results, search)
        drawn = [chart for section in charts.values() for chart in section]
        pictures = {chart.name: png(chart.figure) for chart in drawn if chart.figure is not None}
        numbers = csv_files(results, search, better)
    pictures |= {each.name: gallery.png(each.picture) for each in shown}
    html = page(results, begun, better, charts, shown, pictures, numbers)
    files = {
        **{f"{name}.png": picture for name, picture in pictures.items()},
        **{name: text.encode() for name, text in numbers.items()},
        layout.PAGE: html.encode(),
    }
    folder = storage.join(results.sweep, layout.REPORT)
    possible = [chart.name for chart in drawn] + [picture_of(group) for group in GROUPS]
    for name in {*(f"{name}.png" for name in possible), *ABOUT} - set(files):
        # An earlier session of an extended sweep may have written it.
        storage.delete(storage.join(folder, name))
    for name, content in files.items():
        storage.write(storage.join(folder, name), content)


def is_written(sweep: str) -> bool:
    """Return whether the page exists."""
    return storage.exists(storage.join(sweep, layout.REPORT, layout.PAGE))


def draw(results: Results, search: Search) -> dict[str, list[Chart]]:
    """Draw the charts, by section of the page; must be called within `styled`."""
    return {
        "search": [
            optuna_charts.history(search),
            optuna_charts.importances(search),
            optuna_charts.parallel_coordinates(search),
        ],
        "curves": [learning_curves(results)],
        "front": [optuna_charts.front(search)],
        "routers": [routers.router_load(results), routers.router_choices(results)],
        "cost": [time_of_trials(results)],
    }
