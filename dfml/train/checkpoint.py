"""A run's training state: weights, the optimizer and the epoch's metrics. No code is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from dfml.saved_model import WEIGHTS, save_weights
from dfml.task import EpochMetrics
from dfml.train.optimizer import load_optimizer

OPTIMIZER = "optimizer.pt"
METRICS = "metrics.json"


def save_training_state(
    directory: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, metrics: EpochMetrics
) -> None:
    """Write what a run needs to resume after an epoch.

    Args:
        directory: the folder; created if missing.
        objective: the objective: model, routers and proxies.
        optimizer: the optimizer of its parameters.
        metrics: the metrics of the epoch.
    """
    directory.mkdir(parents=True, exist_ok=True)
    save_weights(objective, directory)
    torch.save(optimizer.state_dict(), directory / OPTIMIZER)
    (directory / METRICS).write_text(json.dumps(metrics), encoding="utf-8")


def load_training_state(directory: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> EpochMetrics:
    """Load the state into `objective` and `optimizer`, and return the metrics saved with it."""
    objective.load_state_dict(load_file(directory / WEIGHTS))
    load_optimizer(optimizer, torch.load(directory / OPTIMIZER, map_location="cpu", weights_only=True))
    metrics: EpochMetrics = json.loads((directory / METRICS).read_text(encoding="utf-8"))
    return metrics
