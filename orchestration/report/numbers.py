"""The numbers of the report's charts and tables as CSV, in full precision."""

from __future__ import annotations

import csv
import io
from typing import Any

from orchestration.report.costs import times
from orchestration.report.improvement import Improvement
from orchestration.report.optuna_charts import Search
from orchestration.report.results import Results
from orchestration.report.routers import choices_of, load_entropy, loads_in, winners_loads
from orchestration.sweep_folder.records import TrialRecord


def csv_files(results: Results, search: Search, improvement: Improvement) -> dict[str, str]:
    """Return all CSV files by name, without the ones that have no rows."""
    files = {
        "trials.csv": trials_csv(results),
        "epochs.csv": epochs_csv(results),
        "test.csv": _csv(*_test(results)),
        "first_recipe.csv": _csv(["name", "first", "winner"], improvement.differing),
        "importances.csv": _csv(
            ["name", "importance"], [] if search.why_no_importances() else list(search.importances().items())
        ),
        "pareto_front.csv": _csv(["trial", "score", "flops", "on_front"], _front(results) if search.has_flops else []),
        "router_load.csv": _csv(
            ["run", "epoch", "router", "name", "sub_block", "load", "load_entropy"], _loads(results)
        ),
        "router_choices.csv": _csv(*_choices(results)),
        "retrievals.csv": _csv(*_retrievals(results)),
    }
    return {name: text for name, text in files.items() if text.count("\n") > 1}


def _csv(columns: list[str], rows: list[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def trials_csv(results: Results) -> str:
    """Return one row per trial: its sampled values, how it ended, and its cost."""
    names = list(dict.fromkeys(name for record in results.trials for name in record.parameters))
    costs = ["flops", "cpu_hours", "gpu_hours", "s3_bytes", "restarts", "repeated_epochs", "parts", "loader_workers"]
    clock = ["waiting", "training", "validation", "other", "total"]
    columns = [
        "trial",
        *names,
        "epochs",
        f"best_{results.scored_on}_score",
        "best_epoch",
        "winner",
        "ended",
        "reason",
        *costs,
    ]
    rows = []
    for record in results.trials:
        spent = times(record)
        rows.append(
            [
                record.number,
                *(record.parameters.get(name, "") for name in names),
                len(record.epochs),
                record.best,
                record.epochs[-1].get("best_epoch") if record.epochs else None,
                int(record.number == results.winner),
                record.state,
                record.reason or "",
                *(getattr(record, name) for name in costs),
                *(getattr(spent, name) for name in clock),
            ]
        )
    return _csv([*columns, *(f"{name}_seconds" for name in clock)], rows)


def epochs_csv(results: Results) -> str:
    """Return one row per epoch of each trial and of each of the winner's runs, with its metrics.

    The routers' loads are in `router_load.csv` for one run only: the loads of all trials would be
    most of the report, with over a hundred columns for a ViT.
    """
    records = [*results.trials, *results.runs]
    found = dict.fromkeys(name for record in records for metrics in record.epochs for name in metrics)
    names = [name for name in found if name != "router_load"]
    rows = [
        [run_name(record), *(metrics.get(name) for name in names)] for record in records for metrics in record.epochs
    ]
    return _csv(["run", *names], rows)


def run_name(record: TrialRecord) -> str:
    """Return the trial's number, or "seed 7" for a run of the winner."""
    return str(record.number) if record.kind == "trial" else f"seed {record.recipe.seed}"


def _test(results: Results) -> tuple[list[str], list[list[Any]]]:
    names = list(results.test["winner"])
    scores = {**results.test, **{f"seed {each.seed}": each.test for each in results.reproductions if each.test}}
    if results.interval:
        scores["mean over seeds"] = {name: each.mean for name, each in results.interval.items()}
        scores["half width of the 95 % interval"] = {name: each.half_width for name, each in results.interval.items()}
    return ["of", *names], [[who, *(metrics.get(name) for name in names)] for who, metrics in scores.items()]


def _front(results: Results) -> list[list[Any]]:
    scored = [record for record in results.trials if record.state != "failed" and record.best is not None]
    return [[record.number, record.best, record.flops, int(record.number in results.front)] for record in scored]


def _loads(results: Results) -> list[list[Any]]:
    """Return the loads after each epoch of the run that the heat map shows."""
    shown = winners_loads(results)
    if shown is None:
        return []
    rows: list[list[Any]] = []
    for metrics in shown.record.epochs:
        share = loads_in(metrics)
        if share.shape[1] > 1:
            entropy = load_entropy(share)
            rows += [
                [run_name(shown.record), metrics["epoch"], r, shown.names[r], k, float(share[r, k]), float(entropy[r])]
                for r in range(share.shape[0])
                for k in range(share.shape[1])
            ]
    return rows


def _choices(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Return the choices of the winning trial and, if it has loads, of the kept model's run."""
    rows = [
        {"run": run_name(record), **row} for record in [results.won, *results.runs[:1]] for row in choices_of(record)
    ]
    columns = list(rows[0]) if rows else ["run"]
    return [column.replace(" ", "_") for column in columns], [list(row.values()) for row in rows]


def _retrievals(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Return one row per neighbor; images are numbered from 0 in their split."""
    rows = [
        [row["drawn"], row["query"], row["rank_of_first_match"], rank, nearest, int(right), cosine]
        for row in results.retrievals
        for rank, (nearest, right, cosine) in enumerate(
            zip(row["nearest"], row["right"], row["cosine"], strict=True), 1
        )
    ]
    return ["group", "query_row", "others_before_first_right", "rank", "nearest_row", "same_class", "cosine"], rows
