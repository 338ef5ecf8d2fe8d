"""`best/README.md`: the model card, filled from the facts in `config.json`."""

from __future__ import annotations

import json
from typing import Any

from dfml.data.transforms import evaluation_sizes
from dfml.recipe import recipe_from
from dfml.task import TASKS
from orchestration.results.interval import Interval
from orchestration.results.protocols import PROTOCOLS
from orchestration.results.reproductions import Reproduction, in_words, reproduction_table
from orchestration.results.tables import score_table

CARD = """\
# {backbone}, factorized into {routers} sub-blocks, for {dataset}

{what}

```python
import dfml
from PIL import Image

model = dfml.load("<this folder>")
{call}
```

Images may be of any size and mode: as RGB, the shorter side resized to {resize} pixels, the {crop} × {crop} in the middle cut out, through the
{path} path. Or on the command line:

    python -m dfml.embed --model <this folder> --images DIR --out embeddings.parquet
    python -m dfml.search --model <this folder> --index embeddings.parquet --query IMAGE
    python -m dfml.export --model <this folder> --out model.onnx

## How good it is

{tested}

{table}
{reproductions}
Protocol `{protocol}`: {protocol_in_words}
The test images were looked at {evaluations} time(s) in this sweep.

## How it was made

Trial {trial} of {trials}, {winner}: {train_rows} images of {train_classes} classes, {epochs} epochs, seed {seed}.
Data set `{dataset}`, manifest SHA-256 `{manifest}`. Code at {revision}.
Versions: {versions}.

Recipe:

```json
{recipe}
```
"""

# By task: what the model is, how it is called, what it was tested on.
IN_WORDS = {
    "retrieval": (
        "An image-retrieval model trained with Deep Factorized Metric Learning. It turns an image into a vector of length\n"
        "{width}; the more alike two images are in the sense of its training classes, the larger the cosine of their vectors.",
        'embedding = model.embed([Image.open("image.png")])  # (1, {width}), L2-normalised',
        "On the {test_images} of the data set's {test_classes} test classes, {relation}:",
    ),
    "classification": (
        "An image classifier trained with Deep Factorized Metric Learning's routed paths and cross-entropy. `model.class_names` are\n"
        "its {train_classes} classes.",
        'probabilities = model.classify([Image.open("image.png")])  # (1, {train_classes})',
        "On the {test_images} of the same classes, {relation}:",
    ),
}


def model_card(config: dict[str, Any]) -> str:
    """The card of the model that `config.json` describes."""
    recipe = config["recipe"]
    full_recipe = recipe_from(recipe)
    task = full_recipe.task
    resize, crop = evaluation_sizes(full_recipe)
    protocol = PROTOCOLS[config["protocol"]].of(TASKS[task])
    facts = {
        "width": config["embedding_size"],
        "train_rows": config["splits"]["train"]["rows"],
        "train_classes": config["splits"]["train"]["classes"],
        "relation": protocol.tested,
        **_tested_on(config["splits"]),
    }
    what, call, tested = (text.format(**facts) for text in IN_WORDS[task])
    head, rows = score_table({"winner": config["test"], **config["baselines"]})
    rows[0][0] = "**this model**"
    return CARD.format(
        **facts,
        what=what,
        call=call,
        resize=resize,
        crop=crop,
        path=full_recipe.inference,
        tested=tested,
        backbone=recipe["backbone"],
        routers=recipe["routers"],
        dataset=config["dataset"],
        table=_table(head, rows),
        reproductions=_reproductions(config),
        protocol=config["protocol"],
        protocol_in_words=protocol.rule,
        winner=protocol.winner,
        evaluations=config["test_evaluations"],
        trial=config["trial"],
        trials=config["trials"],
        epochs=config["epochs"],
        seed=config["seed"],
        manifest=config["manifest_sha256"],
        revision=config["git_revision"] or "no git revision",
        versions=", ".join(f"{name} {version}" for name, version in config["versions"].items()),
        recipe=json.dumps(recipe, indent=1),
    )


def _tested_on(splits: dict[str, Any]) -> dict[str, Any]:
    if "test" in splits:
        return {"test_images": f"{splits['test']['rows']} test images", "test_classes": splits["test"]["classes"]}
    queries, gallery = splits["query"], splits["gallery"]
    images = f"{queries['rows']} queries, looked for in a gallery of {gallery['rows']} images,"
    return {"test_images": images, "test_classes": queries["classes"]}


def _reproductions(config: dict[str, Any]) -> str:
    """The section on several seeds; nothing for one."""
    reproductions = [Reproduction(**each) for each in config["reproductions"]]
    if len(reproductions) < 2:
        return ""
    interval = {name: Interval(**each) for name, each in config["interval"].items()}
    return (
        f"\n{in_words(reproductions, config['protocol'])}\n\n{_table(*reproduction_table(reproductions, interval))}\n"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
