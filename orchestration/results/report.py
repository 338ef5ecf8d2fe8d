"""The report's files: the page, each figure as PNG, and the numbers as CSV."""

from __future__ import annotations

from dfml import storage
from dfml.data.cache import Cache
from orchestration import layout
from orchestration.identity import Begun
from orchestration.results import gallery, optuna_charts, routers
from orchestration.results.costs import time_of_trials
from orchestration.results.curves import learning_curves
from orchestration.results.gain import gain
from orchestration.results.numbers import csv_files
from orchestration.results.optuna_charts import Search
from orchestration.results.page import ABOUT, page
from orchestration.results.style import Chart, png, styled
from orchestration.results.summary import Results
from orchestration.trials.shown import picture_of


def write_report(results: Results, begun: Begun, cache: Cache) -> None:
    """Write the files of `report/` except `results.json`, whose presence says that the sweep has ended; the page last.

    Args:
        results: of the sweep.
        begun: its `sweep.json`.
        cache: keeps what is fetched from S3 of the images that are shown.
    """
    plan = begun.plan
    search = Search(results, plan.space, plan.objectives)
    better = gain(results, plan.space, plan.defaults().epochs, plan.dataset)
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
    possible = [chart.name for chart in drawn] + [picture_of(group) for group in gallery.GROUPS]
    for name in {*(f"{name}.png" for name in possible), *ABOUT} - set(files):
        storage.delete(storage.join(folder, name))  # of an earlier session of a sweep that was extended
    for name, content in files.items():
        storage.write(storage.join(folder, name), content)


def is_written(sweep: str) -> bool:
    """Whether the page is there."""
    return storage.exists(storage.join(sweep, layout.REPORT, layout.PAGE))


def draw(results: Results, search: Search) -> dict[str, list[Chart]]:
    """The figures by the section of the page that they stand in; within `styled`."""
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
