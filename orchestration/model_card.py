"""`best/README.md`: the model card, filled from the facts in `config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dfml.checkpoint import CONFIG
from dfml.recipe import recipe_from
from orchestration.results import shown_metrics

CARD = """\
# {backbone}, factorized into {routers} sub-blocks, for {dataset}

{what}

```python
import dfml
from PIL import Image

model = dfml.load("<this folder>")
{call}
```

## How good it is

{tested}

{table}

Protocol `{protocol}`: {protocol_in_words}
The test images were looked at {evaluations} time(s) in this sweep.

## How it was made

Trial {trial} of {trials}, trained again on all {train_rows} training images, of {train_classes} classes, for {epochs} epochs, seed {seed}.
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
        "On the {test_rows} images of the data set's {test_classes} test classes, none of which it was trained or selected on:",
    ),
    "classification": (
        "An image classifier trained with Deep Factorized Metric Learning's routed paths and cross-entropy. `model.class_names` are\n"
        "its {train_classes} classes.",
        'probabilities = model.classify([Image.open("image.png")])  # (1, {train_classes})',
        "On the {test_rows} test images of the same classes, none of which it was trained or selected on:",
    ),
}
PROTOCOL_IN_WORDS = {
    "holdout": "trials were scored on a part of the training split that was held out (for retrieval a class-disjoint fifth of its "
    "classes, for classification a tenth of each class's images); only the winner was retrained on all of it and scored on the test images."
}


def write_model_card(best: Path) -> None:
    """Write README.md beside the `config.json` in `best`."""
    config = json.loads((best / CONFIG).read_text(encoding="utf-8"))
    (best / "README.md").write_text(model_card(config), encoding="utf-8")


def model_card(config: dict[str, Any]) -> str:
    recipe = config["recipe"]
    scores = {"**this model**": config["test"], **config["baselines"]}
    names = shown_metrics(config["test"])
    head = [f"| | {' | '.join(names.values())} |", "|" + " --- |" * (len(names) + 1)]
    cells = {who: [f"{m[name]:.3f}" if name in m else "" for name in names] for who, m in scores.items()}
    table = [*head, *(f"| {who} | {' | '.join(row)} |" for who, row in cells.items())]
    facts = {
        "width": config["embedding_size"],
        "test_rows": config["splits"]["test"]["rows"],
        "test_classes": config["splits"]["test"]["classes"],
        "train_rows": config["splits"]["train"]["rows"],
        "train_classes": config["splits"]["train"]["classes"],
    }
    what, call, tested = (text.format(**facts) for text in IN_WORDS[recipe_from(recipe).task])
    return CARD.format(
        **facts,
        what=what,
        call=call,
        tested=tested,
        backbone=recipe["backbone"],
        routers=recipe["routers"],
        dataset=config["dataset"],
        table="\n".join(table),
        protocol=config["protocol"],
        protocol_in_words=PROTOCOL_IN_WORDS[config["protocol"]],
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
