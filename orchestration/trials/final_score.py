"""The score on the test classes: of a run of the winner, of the baselines, and the retrievals to show. Runs in the run's workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dfml import storage
from dfml.baselines import baselines
from dfml.checkpoint import save_model
from dfml.data.datasets import recall_at
from dfml.distributed import rank
from dfml.evaluate import Embedder, embed, embed_set
from dfml.evaluate.accuracy import accuracy
from orchestration import layout
from orchestration.trials.evaluations import count_evaluation
from orchestration.trials.examples import examples
from orchestration.trials.outcome import Outcome
from orchestration.trials.scratch import scratch

if TYPE_CHECKING:
    from dfml.data.evaluation_set import EvaluationSet
    from dfml.data.split import ClassSubset
    from dfml.train import Training


def score_on_test(training: Training, test: EvaluationSet, config: dict[str, Any]) -> Outcome:
    """Score the trained model in full, and in the first seed's run the baselines beside it. All ranks must call it.

    The outcome of rank 0 alone has the retrievals to show.

    Args:
        training: holds the model.
        test: the images kept for the test.
        config: the train loop's, of `train_winner`.
    """
    if rank() == 0:
        count_evaluation(config["trial"])
    recipe = training.recipe
    outcome = Outcome(trial=config["winner"], seed=recipe.seed, epochs=training.epoch, test={})
    if config["first"]:
        outcome.routers = training.model.backbone.router_names()
    if recipe.task == "classification":
        outcome.test = accuracy(training.model, test.queries, training.device, training.loader_workers)
        return outcome
    embedded = embed_set(test, training.embed)
    at = recall_at(test.queries.images.dataset)
    outcome.test = embedded.full_score(at, recipe.seed)
    if config["first"]:
        outcome.baselines = _baselines(training, test, at)
        if rank() == 0:  # which stores them; every rank would go through all queries alone for the same
            outcome.retrievals = examples(embedded, recipe.seed)
    return outcome


def _baselines(training: Training, test: EvaluationSet, at: tuple[int, ...]) -> dict[str, dict[str, float]]:
    scores = {}
    # The path that routers choose which learnt nothing is no baseline.
    whole = training.recipe.model_copy(update={"inference": "full"})
    for name, embedder in baselines(whole).items():
        placed = embedder.to(training.device) if isinstance(embedder, torch.nn.Module) else embedder

        def embedded(subset: ClassSubset, by: Embedder = placed) -> torch.Tensor:
            normalisation = training.model.normalisation
            return embed(by, subset, training.recipe, normalisation, training.device, training.loader_workers)

        scores[name] = embed_set(test, embedded).score(at)
    return scores


def store(training: Training, outcome: Outcome, config: dict[str, Any]) -> None:
    """Write the first seed's model to the sweep's `best/`, and last of all the outcome, which says that the rest is there."""
    if config["first"]:
        facts = {
            **config["facts"],
            "trial": outcome.trial,
            "seed": outcome.seed,
            "epochs": outcome.epochs,
            "test": outcome.test,
            "baselines": outcome.baselines,
        }
        with scratch() as directory:
            save_model(directory, training.model, facts)
            storage.upload(directory, storage.join(config["sweep"], layout.BEST))
    outcome.save(config["trial"])
