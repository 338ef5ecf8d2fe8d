"""The report: retrievals as a picture, learning curves, the trials as CSV, and one self-contained page with all of it."""

from __future__ import annotations

import base64
import csv
import html
import io
from typing import TYPE_CHECKING

from dfml import storage
from dfml.data.cache import Cache
from dfml.data.dataset import ShardedImages
from dfml.data.evaluation_set import splits_for_test
from dfml.data.manifest import read_manifest
from dfml.task import SCORE
from orchestration import layout
from orchestration.records import describe
from orchestration.results.reproductions import in_words, reproduction_table
from orchestration.results.summary import Results
from orchestration.results.tables import FRONT, front_table, score_table, trial_columns, trial_rows, trial_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

RIGHT, WRONG = "#2a9d4a", "#d1362f"


def write_report(results: Results, cache: Cache) -> None:
    """Write the files of `report/` except `results.json`, whose presence says that the sweep has ended."""
    import matplotlib

    matplotlib.use("Agg")  # draws to files, with or without a screen
    files = {
        "learning_curves.png": _png(learning_curves(results)),
        "trials.csv": trials_csv(results).encode(),
    }
    if results.retrievals:
        files["retrievals.png"] = _png(retrievals(results, cache))
    files["index.html"] = page(results, files).encode()
    for name, content in files.items():
        storage.write(storage.join(results.sweep, layout.REPORT, name), content)


def retrievals(results: Results, cache: Cache) -> Figure:
    """Queries from the test classes with their 5 nearest images, of the gallery where there is one; green frames: same class, red: another."""
    from matplotlib.figure import Figure

    splits = splits_for_test(read_manifest(results.data), "retrieval")
    images, gallery = (ShardedImages(results.data, split, cache) for split in (splits[0], splits[-1]))
    rows = results.retrievals
    columns = 1 + max(len(row["nearest"]) for row in rows)
    figure = Figure(figsize=(1.5 * columns, 1.72 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        name = images.class_names[images.labels[row["query"]]]
        _draw(line[0], images.glance(row["query"]), "black", f"query ({row['drawn']})\n{_short(name)}")
        found = zip(line[1:], row["nearest"], row["right"], row["cosine"], strict=False)
        for axis, nearest, right, cosine in found:
            name = gallery.class_names[gallery.labels[nearest]]
            mark = "✓" if right else "✗"
            _draw(axis, gallery.glance(nearest), RIGHT if right else WRONG, f"{mark} {cosine:.2f}\n{_short(name)}")
    return figure


def _draw(axis: Axes, image: Image.Image, colour: str, title: str) -> None:
    axis.set_axis_on()
    axis.imshow(image)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=7, color=colour)
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(2)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"


def learning_curves(results: Results) -> Figure:
    """Each trial's score by epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for record in results.trials:
        won = record.number == results.winner
        epochs = [figures["epoch"] for figures in record.epochs]
        recalls = [figures[SCORE] for figures in record.epochs]
        label = f"{record.number}: {describe(record.training_recipe())}{' (winner)' if won else ''}"
        axis.plot(epochs, recalls, marker="o", linewidth=3 if won else 1.5, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"{results.task.heading} on {results.scored_on} {results.task.unit}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    return figure


def trials_csv(results: Results) -> str:
    """One line a trial: what was sampled, and how it ended."""
    names = sorted({name for record in results.trials for name in record.parameters})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = ["flops", "cpu_hours", "gpu_hours", "s3_bytes", "losses"]
    writer.writerow(["trial", *names, "epochs", f"best_{results.scored_on}_score", "ended", "reason", *costs])
    for record in results.trials:
        sampled = [record.parameters.get(name, "") for name in names]
        ended = [len(record.epochs), record.best, record.state, record.reason or ""]
        spent = [record.flops, record.cpu_hours, record.gpu_hours, record.s3_bytes, record.losses]
        writer.writerow([record.number, *sampled, *ended, *spent])
    return text.getvalue()


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left }}
tr.best {{ font-weight: 600; background: #eef8f0 }} img {{ max-width: 100% }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<p>Protocol <b>{protocol}</b>: {protocol_in_words} The test images were looked at {evaluations} time(s). Seed {seed}. {cost}</p>
<h2>Test</h2>{test}
{reproductions}
<h2>{trial_title}</h2>{trials}
{front}
<img alt="score by epoch" src="{curves}">
{retrievals}
</html>
"""
RETRIEVALS = """<h2>Retrievals</h2>
<p>Test images and their five nearest, the cosine above each: green, the same class; red, another. The first queries are
drawn at random, the last from those whose nearest image is of another class.</p>
<img alt="queries and their nearest images" src="{picture}">"""


def page(results: Results, files: dict[str, bytes]) -> str:
    """One HTML file with its pictures inside, so that it can be sent and opened anywhere."""
    metric = results.task.metric
    others = "; ".join(f"{who} {m[metric]:.3f}" for who, m in results.test.items() if who != "winner")
    words = results.protocol_in_words()
    several = len(results.reproductions) > 1
    return PAGE.format(
        title=html.escape(results.sweep.rstrip("/").rsplit("/", 1)[-1]),
        summary=f"Trial {results.winner} won. {words.winner[0].upper()}{words.winner[1:]}, it finds the right class first for "
        f"{results.test['winner'][metric]:.1%} of the test images{f' ({html.escape(others)})' if others else ''}.",
        protocol=results.protocol,
        protocol_in_words=words.rule[0].upper() + words.rule[1:],
        evaluations=results.test_evaluations,
        seed=results.seed,
        cost=f"{cost[0].upper()}{cost[1:]}." if (cost := results.cost_in_words()) else "",
        test=_table(*score_table(results.test), 0),
        reproductions=_reproductions(results) if several else "",
        trial_title=trial_title(results.trials, results.scored_on),
        trials=_table(trial_columns(results.trials), trial_rows(results.trials), results.marked),
        front=_front(results) if results.front else "",
        curves=_inline(files["learning_curves.png"]),
        retrievals=RETRIEVALS.format(picture=_inline(files["retrievals.png"])) if results.retrievals else "",
    )


def _front(results: Results) -> str:
    return f"<h2>Pareto front</h2><p>{FRONT}.</p>{_table(*front_table(results.front_trials(), results.scored_on))}"


def _reproductions(results: Results) -> str:
    table = _table(*reproduction_table(results.reproductions, results.interval))
    return f"<h2>Reproductions</h2><p>{html.escape(in_words(results.reproductions, results.protocol))}</p>{table}"


def _table(head: list[str], rows: list[list[str]], marked: int | None = None) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for i, row in enumerate(rows):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{' class=best' if i == marked else ''}>{cells}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
