"""Checkpoints: the state of a run in training, and the finished model (`best/`). No pickled code is ever loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dfml.embedding_model import EmbeddingModel, build_model
from dfml.errors import InvalidInput
from dfml.recipe import recipe_from
from dfml.storage import local_copy

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
OPTIMIZER = "optimizer.pt"
FIGURES = "figures.json"


def save_training_state(
    directory: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, figures: dict[str, float]
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    _save_weights(objective, directory)
    torch.save(optimizer.state_dict(), directory / OPTIMIZER)
    (directory / FIGURES).write_text(json.dumps(figures), encoding="utf-8")


def load_training_state(directory: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Load into `objective` and `optimizer`; returns the figures that were saved with them."""
    objective.load_state_dict(load_file(directory / WEIGHTS))
    optimizer.load_state_dict(torch.load(directory / OPTIMIZER, map_location="cpu", weights_only=True))
    figures: dict[str, float] = json.loads((directory / FIGURES).read_text(encoding="utf-8"))
    return figures


def save_model(directory: Path, model: EmbeddingModel, facts: dict[str, Any]) -> None:
    """Write a model as `load` reads it.

    Args:
        directory: made when missing.
        model: its weights and its recipe are saved.
        facts: what else `config.json` is to say (data set, protocol, metrics, versions); JSON values.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _save_weights(model, directory)
    config = {
        "recipe": model.recipe.model_dump(mode="json"),
        "embedding_size": model.embedding_size,
        "class_names": model.class_names,
        **facts,
    }
    (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _save_weights(module: nn.Module, directory: Path) -> None:
    # safetensors takes contiguous tensors only; convolutions' weights are kept channels last.
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, directory / WEIGHTS)


class Identified(NamedTuple):
    model: EmbeddingModel
    sha256: str  # of its model.safetensors: what was made by it is told from what was made by another


def load(where: str | Path) -> EmbeddingModel:
    """A ready model from a sweep's `best/`.

    Args:
        where: a folder, or an `s3://` URI of one.

    Raises:
        InvalidInput: there is no model there, or not one of this project's.
    """
    with local_copy(where, (WEIGHTS, CONFIG)) as directory:
        return _model_in(directory, where)


def load_identified(where: str | Path) -> Identified:
    """As `load`, with the hash of the weights, which are fetched once."""
    with local_copy(where, (WEIGHTS, CONFIG)) as directory:
        model = _model_in(directory, where)
        with (directory / WEIGHTS).open("rb") as stream:
            return Identified(model, hashlib.file_digest(stream, "sha256").hexdigest())


def _model_in(directory: Path, where: str | Path) -> EmbeddingModel:
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        recipe = recipe_from(config["recipe"])
        class_names = config.get("class_names", ())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{where}/{CONFIG} is not the description of a DFML model: name the best/ folder of a sweep"
        ) from error
    model = build_model(recipe, load_weights=False, class_names=class_names)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: names or shapes differ
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(
            f"{where}/{WEIGHTS} is damaged or isn't of the model that {CONFIG} describes ({reason}): copy it again"
        ) from error
    return model.eval()
