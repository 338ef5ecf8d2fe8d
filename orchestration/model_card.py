"""`best/README.md`: the model card, filled from the facts in `config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dfml.checkpoint import CONFIG
from orchestration.results import shown_metrics

CARD = """\
# {backbone}, factorized into {routers} sub-blocks, for {dataset}

An image-retrieval model trained with Deep Factorized Metric Learning. It turns an image into a vector of length
{width}; the more alike two images are in the sense of its training classes, the larger the cosine of their vectors.

```python
import dfml
from PIL import Image

model = dfml.load("<this folder>")
embedding = model.embed([Image.open("image.png")])  # (1, {width}), L2-normalised
```

## How good it is

On the {test_rows} images of the data set's {test_classes} test classes, none of which it was trained or selected on:

{table}

Protocol `{protocol}`: {protocol_in_words}
The test classes were looked at {evaluations} time(s) in this sweep.

## How it was made

Trial {trial} of {trials}, trained again on all {train_classes} training classes for {epochs} epochs, seed {seed}.
Data set `{dataset}`, manifest SHA-256 `{manifest}`. Code at {revision}.
Versions: {versions}.

Recipe:

```json
{recipe}
```
"""

PROTOCOL_IN_WORDS = {
    "holdout": "trials were scored on a class-disjoint fifth of the training classes; only the winner was retrained on all "
    "training classes and scored on the test classes."
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
    return CARD.format(
        backbone=recipe["backbone"],
        routers=recipe["routers"],
        dataset=config["dataset"],
        width=config["embedding_size"],
        test_rows=config["splits"]["test"]["rows"],
        test_classes=config["splits"]["test"]["classes"],
        train_classes=config["splits"]["train"]["classes"],
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
