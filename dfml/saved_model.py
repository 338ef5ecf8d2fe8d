"""A finished model in a folder, such as a sweep's `best/`: weights and recipe, no pickled code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dfml.embedding_model import EmbeddingModel, build_model
from dfml.errors import InvalidInput, one_line
from dfml.recipe import recipe_from
from dfml.storage import local_copy

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(directory: Path, model: EmbeddingModel, facts: dict[str, Any]) -> None:
    """Write a model in the format that `load` reads.

    Args:
        directory: the folder; created if missing.
        model: the model, saved with its recipe.
        facts: further JSON values for `config.json` (data set, protocol, metrics, versions).
    """
    directory.mkdir(parents=True, exist_ok=True)
    save_weights(model, directory)
    config = {
        "recipe": model.recipe.model_dump(mode="json"),
        "embedding_size": model.embedding_size,
        "class_names": model.class_names,
        **facts,
    }
    (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def save_weights(module: nn.Module, directory: Path) -> None:
    """Write a module's parameters and buffers to `model.safetensors` in a folder."""
    # safetensors takes contiguous tensors only; convolutions' weights are in channels-last layout.
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, directory / WEIGHTS)


class LoadedModel(NamedTuple):
    model: EmbeddingModel
    # SHA-256 of model.safetensors; identifies the model that produced an index.
    sha256: str


def load(where: str | Path) -> EmbeddingModel:
    """Load a finished model from a sweep's `best/`.

    Args:
        where: the folder or its `s3://` URI.

    Raises:
        InvalidInput: there is no model there, or it isn't one of this project.
    """
    with local_copy(where, (WEIGHTS, CONFIG)) as directory:
        return _model_in(directory, where)


def load_with_sha256(where: str | Path) -> LoadedModel:
    """Load a model as `load` does, with the hash of its weights; they are fetched only once."""
    with local_copy(where, (WEIGHTS, CONFIG)) as directory:
        model = _model_in(directory, where)
        with (directory / WEIGHTS).open("rb") as stream:
            return LoadedModel(model, hashlib.file_digest(stream, "sha256").hexdigest())


def _model_in(directory: Path, where: str | Path) -> EmbeddingModel:
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        recipe = recipe_from(config["recipe"])
        class_names = config.get("class_names", ())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{where}/{CONFIG} doesn't describe a DFML model; name the best/ folder of a sweep"
        ) from error
    model = build_model(recipe, load_weights=False, class_names=class_names)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    # torch raises RuntimeError if names or shapes differ.
    except (SafetensorError, RuntimeError) as error:
        reason = one_line(error)
        raise InvalidInput(
            f"{where}/{WEIGHTS} is damaged or doesn't belong to the model that {CONFIG} describes "
            f"({reason}); copy it again"
        ) from error
    return model.eval()
