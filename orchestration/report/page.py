"""The page `report/index.html`: one file that contains its charts and CSV files.

It needs no network, has no scripts, and its content security policy forbids the browser to load
anything, so it is safe to open from S3 or a mail.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from dfml import storage
from orchestration.report.costs import cost_table, elapsed_in_words, saved_in_words
from orchestration.report.gallery import Gallery
from orchestration.report.improvement import Improvement
from orchestration.report.reproductions import in_words, reproduction_table
from orchestration.report.results import Results
from orchestration.report.style import Chart
from orchestration.report.tables import (
    FRONT,
    front_table,
    score_table,
    sentence,
    trial_columns,
    trial_rows,
    trial_title,
)
from orchestration.search.domains import Choice, Range
from orchestration.sweep_file import SweepFile
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import describe

TEMPLATE = Path(__file__).with_name("page.html")

CONTENTS = {
    "result": "Result",
    "protocol": "Protocol",
    "search": "Search",
    "curves": "Learning curves",
    "front": "Accuracy against cost",
    "routers": "Routers",
    "retrievals": "Retrievals",
    "cost": "Cost",
    "trials": "Trials",
    "use": "Use the model",
    "setup": "Setup",
    "files": "Numbers",
}

ABOUT = {
    "trials.csv": "one row per trial: its sampled values, its score, how it ended, and its cost",
    "epochs.csv": "one row per epoch of each trial and of the winner's runs: all metrics except the routers' loads",
    "test.csv": "scores on the test images: the winner, the baselines, each seed, mean and interval",
    "first_recipe.csv": "differences between the winner and the recipe tried first (the published one, if any)",
    "importances.csv": "importance of each searched parameter",
    "pareto_front.csv": "score and FLOPs of each trial",
    "router_load.csv": "loads of the winner's routers after each epoch",
    "router_choices.csv": "entropy and changes of the routers' choices, by epoch",
    "retrievals.csv": "the retrievals in this report",
}

CALLS = {
    "retrieval": 'embedding = model.embed([PIL.Image.open("image.png")])  # one row per image, L2-normalized',
    "classification": 'probabilities = model.classify([PIL.Image.open("image.png")])  # see model.class_names',
}


def page(
    results: Results,
    begun: SweepFile,
    improvement: Improvement,
    charts: Mapping[str, Sequence[Chart]],
    galleries: Sequence[Gallery],
    pictures: Mapping[str, bytes],
    csv_files: Mapping[str, str],
) -> str:
    """Return the page as HTML.

    Args:
        results: the results of the sweep.
        begun: the contents of its `sweep.json`.
        improvement: the comparison with the recipe tried first.
        charts: the charts by section of the page.
        galleries: the retrievals.
        pictures: the PNG of each chart and gallery that has one, by name.
        csv_files: the CSV files by name.
    """
    plan, task, words = begun.plan, results.task, results.protocol_in_words()
    epochs = plan.defaults().epochs
    several = len(results.reproductions) > 1
    best = storage.join(results.sweep, layout.BEST)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=results.sweep.rstrip("/").rsplit("/", 1)[-1],
        under=f"A sweep of {len(results.trials)} trials on {plan.dataset}; {plan.defaults().backbone}",
        contents=[(id, title) for id, title in CONTENTS.items() if galleries or id != "retrievals"],
        lead=_lead(results),
        cards=_cards(results, improvement),
        improvement=improvement,
        differing=[(name, _shown(before), _shown(after)) for name, before, after in improvement.differing],
        test_title=f"On the test {task.unit} ({words.tested})",
        test=score_table(results.test),
        reproductions=reproduction_table(results.reproductions, results.interval) if several else None,
        reproductions_in_words=in_words(results.reproductions, results.protocol) if several else "",
        protocol=results.protocol,
        protocol_in_words=sentence(words.rule),
        results=results,
        charts=charts,
        galleries=[Chart(each.name, each.title, each.caption) for each in galleries],
        pictures={name: _base64(png) for name, png in pictures.items()},
        front=front_table(results.front_trials(), results.scored_on) if results.front else None,
        front_title=FRONT,
        cost=cost_table(results),
        cost_in_words=sentence(results.cost_in_words()),
        saved=saved_in_words(results, epochs),
        elapsed=elapsed_in_words(results),
        trials_title=trial_title(results.trials, results.scored_on),
        trials=(trial_columns(results.trials), trial_rows(results.trials)),
        best=best,
        call=CALLS[results.won.recipe.task],
        facts=_facts(results, begun),
        searched=[(name, _domain(domain)) for name, domain in plan.space.domains().items()],
        fixed=[(name, _shown(value)) for name, value in plan.space.recipe.items()],
        recipe=json.dumps(results.won.recipe.model_dump(mode="json"), indent=1),
        folder=storage.join(results.sweep, layout.REPORT),
        csv_files={name: _base64(text.encode()) for name, text in csv_files.items()},
        about=ABOUT,
    )


def _lead(results: Results) -> str:
    """Return the first paragraph: the winner, and its score on the test images."""
    words, metric = results.protocol_in_words(), results.task.metric
    finds = "retrieves the right class first" if metric == "recall_at_1" else "predicts the right class"
    others = [f"{who} {scores[metric]:.1%}" for who, scores in results.test.items() if who != "winner"]
    beside = f" ({', '.join(others)})" if others else ""
    return (
        f"Trial {results.winner} won: {describe(results.won.recipe)}. {sentence(words.winner)} for "
        f"{results.winner_epochs} epoch{'s' if results.winner_epochs != 1 else ''}, it {finds} for "
        f"{results.test['winner'][metric]:.1%} of the test images{beside}."
    )


def _cards(results: Results, improvement: Improvement) -> list[tuple[str, str]]:
    """Return the most important numbers, each with its caption."""
    task = results.task
    cards = [(f"{results.test['winner'][task.metric]:.3f}", f"{task.heading} on the test {task.unit}")]
    if task.metric in results.interval:
        each = results.interval[task.metric]
        cards.append((f"{each.mean:.3f} ± {each.half_width:.3f}", f"mean over {each.n} seeds, 95 % interval"))
    if improvement.difference is not None:
        cards.append(
            (f"{improvement.difference:+.3f}", f"over {improvement.called} on {results.scored_on} {task.unit}")
        )
    elif improvement.first is not None and improvement.first.number == results.winner:
        cards.append(("±0", f"{improvement.called} itself won"))
    for who, scores in results.test.items():
        if who != "winner" and task.metric in scores:
            cards.append(
                (
                    f"{results.test['winner'][task.metric] - scores[task.metric]:+.3f}",
                    f"over the {who} on the test {task.unit}",
                )
            )
    return cards


def _facts(results: Results, begun: SweepFile) -> list[tuple[str, str]]:
    plan = begun.plan
    facts = {
        "command": begun.command,
        "begun": begun.created,
        "sweep": results.sweep,
        "data": f"{plan.dataset}, {plan.data}",
        "manifest SHA-256": begun.manifest_sha256,
        "trials": f"{len(results.trials)} of {plan.trials} planned, {plan.workers_per_trial} worker(s) each",
        "epochs": f"{plan.defaults().epochs} at most",
        "objectives": ", ".join(plan.objectives),
        "budget of the search": str(plan.budget) if plan.budget else "none",
        "reproductions": str(plan.reproductions),
        "seed": str(plan.seed),
        "protocol": plan.protocol,
        "code": begun.git_revision or "not from a git checkout",
        "versions": ", ".join(f"{name} {version}" for name, version in begun.versions.items()),
    }
    return [(name, value) for name, value in facts.items() if value]


def _domain(domain: Choice | Range) -> str:
    if isinstance(domain, Choice):
        return ", ".join(map(_shown, domain.choice))
    return (
        f"{_shown(domain.low)} to {_shown(domain.high)}"
        f"{', logarithmic' if domain.log else ''}{', integers' if domain.integers else ''}"
    )


def _shown(value: Any) -> str:
    """Return a recipe's value as text, rounded."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
