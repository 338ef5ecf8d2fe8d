"""The model card `best/README.md`, filled from the facts in `config.json`."""

from __future__ import annotations

import json
from typing import Any

from dfml.data.streaming.transforms import evaluation_sizes
from dfml.protocol import PROTOCOLS
from dfml.recipe import recipe_from
from dfml.task import TASKS
from orchestration.report.reproductions import Interval, Reproduction, in_words, reproduction_table
from orchestration.report.tables import score_table

CARD = """\
# {backbone}, factorized into {num_sub_blocks} sub-blocks per block, for {dataset}

{what}

```python
import dfml
from PIL import Image

model = dfml.load("<this folder>")
{call}
```

Images may have any size and mode. They are converted to RGB, resized so that the shorter side has
{resize} pixels, cropped to the central {crop} × {crop} pixels, and passed through the {path} path.
On the command line:

    python -m dfml.embed --model <this folder> --images DIR --out embeddings.parquet
    python -m dfml.search --model <this folder> --index embeddings.parquet --query IMAGE
    python -m dfml.export --model <this folder> --out model.onnx

## Evaluation

{tested}

{table}
{reproductions}
Protocol `{protocol}`: {protocol_in_words}
The test images were evaluated {evaluations} time(s) in this sweep.

## Training

Trial {trial} of {trials}, {winner}: {train_rows} images of {train_classes} classes, {epochs} epochs, seed {seed}.
Data set `{dataset}`, manifest SHA-256 `{manifest}`. Git revision: {revision}.
Versions: {versions}.

Recipe:

```json
{recipe}
```
"""

# By task: a description of the model, its call, and its test images.
IN_WORDS = {
    "retrieval": (
        "An image-retrieval model trained with Deep Factorized Metric Learning. It embeds an image as a\n"
        "vector of length {width}; the more similar two images are in the sense of the training classes,\n"
        "the higher the cosine of their embeddings.",
        'embedding = model.embed([Image.open("image.png")])  # (1, {width}), L2-normalized',
        "On the {test_images} of the data set's {test_classes} test classes, {relation}:",
    ),
    "classification": (
        "An image classifier trained with Deep Factorized Metric Learning's routed paths and cross-entropy.\n"
        "`model.class_names` lists its {train_classes} classes.",
        'probabilities = model.classify([Image.open("image.png")])  # (1, {train_classes})',
        "On the {test_images} of the same classes, {relation}:",
    ),
}


def model_card(config: dict[str, Any]) -> str:
    """Return the card of the model that `config.json` describes."""
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
        num_sub_blocks=recipe["num_sub_blocks"],
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
        revision=config["git_revision"] or "unknown",
        versions=", ".join(f"{name} {version}" for name, version in config["versions"].items()),
        recipe=json.dumps(recipe, indent=1),
    )


def _tested_on(splits: dict[str, Any]) -> dict[str, Any]:
    if "test" in splits:
        return {"test_images": f"{splits['test']['rows']} test images", "test_classes": splits["test"]["classes"]}
    queries, gallery = splits["query"], splits["gallery"]
    images = f"{queries['rows']} queries, searched in a gallery of {gallery['rows']} images,"
    return {"test_images": images, "test_classes": queries["classes"]}


def _reproductions(config: dict[str, Any]) -> str:
    """Return the section on several seeds; empty for one seed."""
    reproductions = [Reproduction(**each) for each in config["reproductions"]]
    if len(reproductions) < 2:
        return ""
    interval = {name: Interval(**each) for name, each in config["interval"].items()}
    return (
        f"\n{in_words(reproductions, config['protocol'])}\n\n{_table(*reproduction_table(reproductions, interval))}\n"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
