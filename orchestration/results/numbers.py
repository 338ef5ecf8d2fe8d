"""The report's numbers as CSV, in full precision: what its figures draw and its tables round."""

from __future__ import annotations

import csv
import io
from typing import Any

from orchestration.records import LOAD, TrialRecord
from orchestration.results.costs import times
from orchestration.results.gain import Gain
from orchestration.results.optuna_charts import Search
from orchestration.results.routers import choices_of, load_entropy, loads_in, winners_loads
from orchestration.results.summary import Results


def csv_files(results: Results, search: Search, gain: Gain) -> dict[str, str]:
    """All files by name; those with nothing in them are left out."""
    files = {
        "trials.csv": trials_csv(results),
        "epochs.csv": epochs_csv(results),
        "test.csv": _csv(*_test(results)),
        "first_recipe.csv": _csv(["name", "first", "winner"], gain.differing),
        "importances.csv": _csv(
            ["name", "importance"], [] if search.why_no_importances() else list(search.importances().items())
        ),
        "pareto_front.csv": _csv(["trial", "score", "flops", "on_front"], _front(results) if search.two else []),
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
    """One line a trial: what was sampled, how it ended, and what it took."""
    names = list(dict.fromkeys(name for record in results.trials for name in record.parameters))
    costs = ["flops", "cpu_hours", "gpu_hours", "s3_bytes", "losses", "repeated_epochs"]
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
    """One line an epoch of each trial and of each of the winner's runs, with all its figures but the routers' loads, which `router_load.csv` has.

    Those of all trials would be most of the report: a hundred columns and more for a ViT.
    """
    records = [*results.trials, *results.runs]
    found = dict.fromkeys(name for record in records for figures in record.epochs for name in figures)
    names = [name for name in found if not name.startswith(LOAD)]
    rows = [
        [run_name(record), *(figures.get(name) for name in names)] for record in records for figures in record.epochs
    ]
    return _csv(["run", *names], rows)


def run_name(record: TrialRecord) -> str:
    """The trial's number, or "seed 7" for a run of the winner."""
    return str(record.number) if record.number >= 0 else f"seed {record.recipe['seed']}"


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
    """Of every epoch of the run that the heat map is of."""
    shown = winners_loads(results)
    if shown is None:
        return []
    rows: list[list[Any]] = []
    for figures in shown.record.epochs:
        share = loads_in(figures)
        if share.shape[1] > 1:
            entropy = load_entropy(share)
            rows += [
                [run_name(shown.record), figures["epoch"], r, shown.names[r], k, float(share[r, k]), float(entropy[r])]
                for r in range(share.shape[0])
                for k in range(share.shape[1])
            ]
    return rows


def _choices(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Of the winning trial and, where it has loads, the run of the model that is kept."""
    rows = [
        {"run": run_name(record), **row} for record in [results.won, *results.runs[:1]] for row in choices_of(record)
    ]
    columns = list(rows[0]) if rows else ["run"]
    return [column.replace(" ", "_") for column in columns], [list(row.values()) for row in rows]


def _retrievals(results: Results) -> tuple[list[str], list[list[Any]]]:
    """A line a neighbour; rows count from 0 in the test split, or in those of queries and gallery."""
    rows = [
        [row["drawn"], row["query"], row.get("place"), rank, nearest, int(right), cosine]
        for row in results.retrievals
        for rank, (nearest, right, cosine) in enumerate(
            zip(row["nearest"], row["right"], row["cosine"], strict=True), 1
        )
    ]
    return ["group", "query_row", "others_before_first_right", "rank", "nearest_row", "same_class", "cosine"], rows
