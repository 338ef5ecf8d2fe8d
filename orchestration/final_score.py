"""The one look at the test classes: winner and baselines, and the retrievals to show. Runs in the winner's workers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dfml import storage
from dfml.baselines import baselines
from dfml.checkpoint import save_model
from dfml.data.datasets import recall_at
from dfml.distributed import rank
from dfml.evaluate import embed, full_score, score
from dfml.evaluate.accuracy import accuracy
from dfml.metrics import nearest
from orchestration import layout
from orchestration.model_card import write_model_card

if TYPE_CHECKING:
    from dfml.data.split import ClassSubset
    from dfml.embedding_model import EmbeddingModel
    from dfml.train import Training

NEIGHBOURS = 5
RANDOM_QUERIES = 8
FAILED_QUERIES = 4


def score_on_test(training: Training, test: ClassSubset, sweep: str) -> dict[str, Any]:
    """Score the trained model and the baselines on the test classes. All ranks must call it.

    Returns:
        `test`: metrics by name of what was scored; `test_evaluations`: how often this sweep has now looked at the test
        classes; `retrievals`: for some queries their rows and those of their nearest.
    """
    evaluations = _count_evaluation(sweep) if rank() == 0 else 0
    if training.recipe.task == "classification":
        scores = {"winner": accuracy(training.model, test, training.device, training.loader_workers)}
        return {"test": scores, "test_evaluations": evaluations, "retrievals": []}
    embeddings = training.embed(test)
    at = recall_at(test.images.dataset)
    scores = {"winner": full_score(embeddings, test, at, training.recipe.seed)}
    for name, embedder in baselines(training.recipe).items():
        embedder = embedder.to(training.device) if isinstance(embedder, torch.nn.Module) else embedder
        found = embed(
            embedder, test, training.recipe, training.model.normalisation, training.device, training.loader_workers
        )
        scores[name] = score(found, test, at)
    return {
        "test": scores,
        "test_evaluations": evaluations,
        "retrievals": _retrievals(embeddings, test, training.recipe.seed),
    }


def _count_evaluation(sweep: str) -> int:
    """Count a look at the test classes *before* it happens, so that one that is interrupted counts as well."""
    counter = storage.join(sweep, layout.TEST_EVALUATIONS)
    count = 1 + (json.loads(storage.read(counter)) if storage.exists(counter) else 0)
    storage.write(counter, json.dumps(count).encode())
    return count


def _retrievals(embeddings: torch.Tensor, test: ClassSubset, seed: int) -> list[dict[str, Any]]:
    """Queries drawn at random from all, then from those whose nearest image is of another class."""
    targets = torch.from_numpy(test.targets)
    indices, cosines = nearest(embeddings, min(NEIGHBOURS, len(targets) - 1))
    indices, cosines = indices.cpu(), cosines.cpu()
    right = targets[indices] == targets[:, None]  # (n, NEIGHBOURS)
    rng = np.random.default_rng(seed)
    failed = torch.nonzero(~right[:, 0]).flatten().numpy()
    drawn = [(int(i), "random") for i in rng.permutation(len(targets))[:RANDOM_QUERIES]]
    drawn += [(int(i), "nearest is wrong") for i in rng.permutation(failed)[:FAILED_QUERIES]]
    return [
        {
            "query": int(test.rows[i]),
            "drawn": how,
            "nearest": test.rows[indices[i].numpy()].tolist(),
            "right": right[i].tolist(),
            "cosine": [round(c, 4) for c in cosines[i].tolist()],
        }
        for i, how in drawn
    ]


def store(model: EmbeddingModel, outcome: dict[str, Any], config: dict[str, Any]) -> None:
    """Write the model to the sweep's `best/`, and last of all the outcome, which says that the rest is there."""
    facts = {
        **config["facts"],
        "test": outcome["test"]["winner"],
        "baselines": {name: metrics for name, metrics in outcome["test"].items() if name != "winner"},
        "test_evaluations": outcome["test_evaluations"],
    }
    with tempfile.TemporaryDirectory() as directory:
        save_model(Path(directory), model, facts)
        write_model_card(Path(directory))
        storage.upload(Path(directory), storage.join(config["sweep"], layout.BEST))
    storage.write(storage.join(config["sweep"], layout.OUTCOME), json.dumps(outcome).encode())
