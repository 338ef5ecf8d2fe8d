"""Comparison of the winner with the recipe tried first, which is the published one if there is one.

It states the improvement, the values that differ, and the limits of the comparison.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dfml.data.datasets import published_recipe
from dfml.losses import CONSTANTS
from dfml.recipe import Recipe
from dfml.task import BEST_SCORE
from orchestration.report.results import Results
from orchestration.report.tables import sentence
from orchestration.search.space import SearchSpace
from orchestration.sweep_folder.records import TrialRecord

UNTOLD = {"seed", "weights", "precision", "gradient_accumulation", "activation_checkpointing", "compile"}


class Improvement(NamedTuple):
    """The result of the comparison.

    Attributes:
        first: the trial of the recipe that the space names first; None if it names none.
        called: "the published recipe" if the recipe is the publication's, else "the recipe tried
            first".
        difference: the winner's best score minus that trial's; None if that trial has no score or
            is itself the winner.
        words: the sentences for the report, the result first.
        differing: the values that differ: name, first recipe's value, winner's value.
    """

    first: TrialRecord | None
    called: str
    difference: float | None
    words: list[str]
    differing: list[tuple[str, Any, Any]]


def improvement(results: Results, space: SearchSpace, epochs: int, dataset: str) -> Improvement:
    """Compare the winner with the recipe tried first, by the score that ranks all trials.

    Only the winner was scored on the test images.

    Args:
        results: the results of the sweep.
        space: the search space.
        epochs: the number of epochs of a trial that isn't stopped.
        dataset: the data set's name.
    """
    first = first_trial(results.trials, space)
    if first is None:
        words = ["The search space names no first recipe, so there is none to compare the winner with."]
        return Improvement(None, "", None, words, [])
    called = "the published recipe" if is_published(first.recipe, dataset) else "the recipe tried first"
    if first.number == results.winner:
        return Improvement(first, called, None, [_itself(results, first, called)], [])
    differing = differences(first, results.won)
    if first.state == "failed" or first.best is None:
        reason = first.reason or "it has no score"
        words = [f"{sentence(called)} (trial {first.number}) failed, so there is no comparison with it: {reason}."]
        return Improvement(first, called, None, words, differing)
    difference = (results.won.best or 0.0) - first.best
    return Improvement(first, called, difference, _words(results, first, called, difference, epochs), differing)


def first_trial(trials: list[TrialRecord], space: SearchSpace) -> TrialRecord | None:
    """Return the trial of the first configuration that the space names; None if it names none."""
    if not space.first:
        return None
    point = space.parameters_of(space.first[0])
    return next((record for record in trials if point.items() <= space.parameters_in(record.recipe).items()), None)


def is_published(recipe: Recipe, dataset: str) -> bool:
    """Return whether a recipe is the publication's for the data set.

    The seed and values that affect only memory, speed and rounding don't matter.
    """
    published = published_recipe(dataset)
    return published is not None and _told(recipe) == _told(published)


def _told(recipe: Recipe) -> dict[str, Any]:
    """Return the values that decide a recipe's result, with the loss's constants for its Nones."""
    constants = CONSTANTS[recipe.loss]
    own = {"alpha": constants.alpha, "margin": constants.margin}
    return {
        name: own[name] if value is None and name in own else value
        for name, value in recipe.model_dump().items()
        if name not in UNTOLD
    }


def _itself(results: Results, first: TrialRecord, called: str) -> str:
    scored = [record for record in results.trials if record.state != "failed" and record.best is not None]
    others = [record for record in scored if record.number != first.number]
    said = (
        f"{sentence(called)} (trial {first.number}) itself won: none of the {len(results.trials) - 1} other trials "
        "was better"
    )
    if not others:
        return f"{said}."
    second = max(others, key=lambda record: record.best or 0.0)
    behind = (first.best or 0.0) - (second.best or 0.0)
    return f"{said}. The second best, trial {second.number}, is {behind:.3f} behind in {_score(results)}."


def _words(results: Results, first: TrialRecord, called: str, difference: float, epochs: int) -> list[str]:
    won, before = results.won, first.best or 0.0
    words = [
        f"{difference:+.3f} {_score(results)} over {called} (trial {first.number}): "
        f"{before:.3f} → {won.best or 0.0:.3f}" + (f", {difference / before:+.1%} relative." if before else ".")
    ]
    ran = len(first.epochs)
    if first.state == "stopped":
        words.append(
            f"{sentence(called)} was stopped early, after {ran} of {epochs} epochs, so a part of the difference is due "
            f"to longer training: after as many epochs the winner had {_reached(won, ran):.3f}, a difference of "
            f"{_reached(won, ran) - before:+.3f}."
        )
    if won.state == "stopped":
        words.append(f"The winner was itself stopped early, after {len(won.epochs)} of {epochs} epochs.")
    words.append(
        f"Each was trained once, and the winner was selected as the best of {len(results.trials)} trials by this "
        "score, so the difference is optimistically biased."
    )
    return words


def _score(results: Results) -> str:
    return f"{results.task.heading} on {results.scored_on} {results.task.unit}"


def _reached(record: TrialRecord, epochs: int) -> float:
    """Return the best score within the first `epochs` epochs."""
    return max((metrics[BEST_SCORE] for metrics in record.epochs[:epochs] if BEST_SCORE in metrics), default=0.0)


def differences(first: TrialRecord, winner: TrialRecord) -> list[tuple[str, Any, Any]]:
    """Return the recipes' values that differ, in the order of `Recipe`.

    A value that a recipe's schedule doesn't have is None.
    """
    before, after = _flat(first.recipe.model_dump(mode="json")), _flat(winner.recipe.model_dump(mode="json"))
    return [
        (name, before.get(name), after.get(name)) for name in {**before, **after} if before.get(name) != after.get(name)
    ]


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat
