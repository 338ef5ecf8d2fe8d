"""The scores of a winner's run and of the baselines on the test classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from dfml import storage
from dfml.baselines import baselines
from dfml.data.datasets import recall_at
from dfml.data.streaming.loader import Loader
from dfml.distributed import rank
from dfml.evaluate import Embedder, embed, embed_set
from dfml.evaluate.accuracy import accuracy
from dfml.saved_model import save_model
from orchestration.job import WinnerJob
from orchestration.sweep_folder import layout
from orchestration.trials.checkpoints import worker_tempdir
from orchestration.trials.outcome import Outcome, count_evaluation
from orchestration.trials.retrievals import retrievals

if TYPE_CHECKING:
    from dfml.data.streaming.evaluation_set import EvaluationSet
    from dfml.data.streaming.split import ClassSubset
    from dfml.train import Training


def score_on_test(training: Training, test: EvaluationSet, job: WinnerJob) -> Outcome:
    """Compute all test metrics of the trained model; in the first seed's run also the baselines'.

    All ranks must call it. Only the outcome of rank 0 has the retrievals for the report.

    Args:
        training: the training whose model is scored.
        test: the test images.
        job: the run's job.
    """
    if rank() == 0:
        count_evaluation(job.uri)
    recipe = training.recipe
    outcome = Outcome(trial=job.winner, seed=recipe.seed, epochs=training.epoch, test={})
    if job.first:
        outcome.router_names = training.model.backbone.router_names()
    with Loader(recipe, test.parts, training.loader_workers) as loader:
        if recipe.task == "classification":
            outcome.test = accuracy(training.model, test.queries, training.device, loader)
            return outcome
        embedded = embed_set(test, partial(training.embed, loader=loader))
        at = recall_at(test.queries.images.dataset)
        outcome.test = embedded.full_score(at, recipe.seed)
        if job.first:
            outcome.baselines = _baselines(training, test, loader, at)
    # Every rank would go through all queries for the same result; rank 0 stores it.
    if job.first and rank() == 0:
        outcome.retrievals = retrievals(embedded, recipe.seed)
    return outcome


def _baselines(
    training: Training, test: EvaluationSet, loader: Loader, at: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    scores = {}
    # The routed path is no baseline: its routers are untrained.
    whole = training.recipe.model_copy(update={"inference": "full"})
    for name, embedder in baselines(whole).items():
        placed = embedder.to(training.device) if isinstance(embedder, torch.nn.Module) else embedder

        def embedded(subset: ClassSubset, by: Embedder = placed) -> torch.Tensor:
            return embed(by, subset, training.model.normalization, training.device, loader)

        scores[name] = embed_set(test, embedded).score(at)
    return scores


def store(training: Training, outcome: Outcome, job: WinnerJob) -> None:
    """Write the first seed's model to the sweep's `best/`, then the outcome as the last file."""
    if job.first:
        facts = {
            **job.facts,
            "trial": outcome.trial,
            "seed": outcome.seed,
            "epochs": outcome.epochs,
            "trained_in": training.precision,
            "test": outcome.test,
            "baselines": outcome.baselines,
        }
        with worker_tempdir() as directory:
            save_model(directory, training.model, facts)
            storage.upload(directory, storage.join(job.settings.sweep, layout.BEST))
    outcome.save(job.uri)
