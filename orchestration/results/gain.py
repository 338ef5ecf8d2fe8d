"""The winner against the recipe that was tried first, the published one where there is one: by how much it is better, where the two differ,
and what the comparison is worth."""

from __future__ import annotations

from typing import Any, NamedTuple

from dfml.losses import CONSTANTS
from dfml.recipe import Recipe
from dfml.task import BEST_SCORE
from orchestration.records import TrialRecord
from orchestration.results.summary import Results
from orchestration.results.tables import sentence
from orchestration.search.space import SearchSpace

# The publication's recipes, where they differ from a recipe's defaults, which are CUB's.
PUBLISHED: dict[str, dict[str, Any]] = {
    "cub": {},
    "cars": {"schedule": {"kind": "step", "step": 10, "gamma": 0.5}},
    "sop": {"lr": 6e-4, "warm_epochs": 1, "schedule": {"kind": "step", "step": 10, "gamma": 0.25}},
}
UNTOLD = {"seed", "weights", "precision", "gradient_accumulation", "activation_checkpointing", "compile"}


class Gain(NamedTuple):
    """What comes of the comparison.

    Attributes:
        first: the trial of the recipe that the space names first; None where there is none.
        called: what that recipe is: "the published recipe", or, where the publication has none or a value is another, "the recipe tried first".
        difference: of the winner's best score and that trial's; None where it has none, or is itself the winner.
        words: sentences, the answer first.
        differing: values in which the two recipes differ: name, first, winner's.
    """

    first: TrialRecord | None
    called: str
    difference: float | None
    words: list[str]
    differing: list[tuple[str, Any, Any]]


def gain(results: Results, space: SearchSpace, epochs: int, dataset: str) -> Gain:
    """Compare by the score on which all trials were compared; on the test images only the winner was scored.

    Args:
        results: of the sweep.
        space: what it searched.
        epochs: of a trial that isn't stopped.
        dataset: its name.
    """
    first = first_trial(results.trials, space)
    if first is None:
        words = ["The search space names no recipe to begin with, so there is none to compare the winner with."]
        return Gain(None, "", None, words, [])
    called = "the published recipe" if is_published(first.training_recipe(), dataset) else "the recipe tried first"
    if first.number == results.winner:
        return Gain(first, called, None, [_itself(results, first, called)], [])
    differing = differences(first, results.won)
    if first.state == "failed" or first.best is None:
        reason = first.reason or "it came to no score"
        words = [f"{sentence(called)} (trial {first.number}) failed, so there is nothing to compare with: {reason}."]
        return Gain(first, called, None, words, differing)
    difference = (results.won.best or 0.0) - first.best
    return Gain(first, called, difference, _words(results, first, called, difference, epochs), differing)


def first_trial(trials: list[TrialRecord], space: SearchSpace) -> TrialRecord | None:
    """The trial of the first configuration that the space names."""
    if not space.first:
        return None
    point = space.parameters_of(space.first[0])
    return next((record for record in trials if point.items() <= space.parameters_in(record.recipe).items()), None)


def is_published(recipe: Recipe, dataset: str) -> bool:
    """Whether it is the publication's for the data set, up to what changes no result but by rounding: memory, speed, the seed."""
    values = PUBLISHED.get(dataset.lower())
    if values is None:
        return False
    return _told(recipe) == _told(Recipe(**values))


def _told(recipe: Recipe) -> dict[str, Any]:
    """A recipe's values that decide its result, with the loss's own constants where it names none."""
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
    said = f"{sentence(called)} (trial {first.number}) itself won: of the {len(results.trials) - 1} other trials none was better"
    if not others:
        return f"{said}."
    second = max(others, key=lambda record: record.best or 0.0)
    behind = (first.best or 0.0) - (second.best or 0.0)
    return f"{said}. The next, trial {second.number}, is {behind:.3f} behind in {_score(results)}."


def _words(results: Results, first: TrialRecord, called: str, difference: float, epochs: int) -> list[str]:
    won, before = results.won, first.best or 0.0
    words = [
        f"{difference:+.3f} {_score(results)} over {called} (trial {first.number}): {before:.3f} → {won.best or 0.0:.3f}"
        + (f", {difference / before:+.1%} relative." if before else ".")
    ]
    ran = len(first.epochs)
    if first.state == "stopped":
        words.append(
            f"{sentence(called)} was stopped early, after {ran} of {epochs} epochs, so a part of the difference is longer training: after "
            f"as many epochs the winner had {_reached(won, ran):.3f}, {_reached(won, ran) - before:+.3f}."
        )
    if won.state == "stopped":
        words.append(f"The winner was itself stopped early, after {len(won.epochs)} of {epochs} epochs.")
    words.append(
        f"Each was trained once, and the winner is the best of {len(results.trials)} by this very score, so the difference leans upward."
    )
    return words


def _score(results: Results) -> str:
    return f"{results.task.heading} on {results.scored_on} {results.task.unit}"


def _reached(record: TrialRecord, epochs: int) -> float:
    """The best score within the first epochs."""
    return max((figures[BEST_SCORE] for figures in record.epochs[:epochs] if BEST_SCORE in figures), default=0.0)


def differences(first: TrialRecord, winner: TrialRecord) -> list[tuple[str, Any, Any]]:
    """Values of the recipe in which they differ, in the recipe's order; None for a value that one's schedule doesn't have."""
    before, after = _flat(first.recipe), _flat(winner.recipe)
    return [
        (name, before.get(name), after.get(name)) for name in {**before, **after} if before.get(name) != after.get(name)
    ]


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat
