"""The winner against the published recipe: by how much it is better, where the two differ, and what the comparison is worth."""

from __future__ import annotations

from typing import Any, NamedTuple

from dfml.task import BEST_SCORE
from orchestration.records import TrialRecord
from orchestration.results.summary import Results
from orchestration.search.space import SearchSpace


class Gain(NamedTuple):
    """What comes of the comparison.

    Attributes:
        published: the trial of the recipe that the space names first; None where there is none.
        difference: of the winner's best score and that trial's; None where it has none, or is itself the winner.
        words: sentences, the answer first.
        differing: values in which the two recipes differ: name, published, winner's.
    """

    published: TrialRecord | None
    difference: float | None
    words: list[str]
    differing: list[tuple[str, Any, Any]]


def gain(results: Results, space: SearchSpace, epochs: int) -> Gain:
    """Compare by the score on which all trials were compared; on the test images only the winner was scored.

    Args:
        results: of the sweep.
        space: what it searched.
        epochs: of a trial that isn't stopped.
    """
    published = published_trial(results.trials, space)
    if published is None:
        return Gain(
            None,
            None,
            ["The search space names no recipe to begin with, so there is no published one to compare with."],
            [],
        )
    if published.number == results.winner:
        return Gain(published, None, [_itself(results, published)], [])
    if published.state == "failed" or published.best is None:
        reason = published.reason or "it came to no score"
        words = [
            f"The published recipe (trial {published.number}) failed, so there is nothing to compare with: {reason}."
        ]
        return Gain(published, None, words, differing(published, results.won))
    difference = (results.won.best or 0.0) - published.best
    return Gain(
        published, difference, _words(results, published, difference, epochs), differing(published, results.won)
    )


def published_trial(trials: list[TrialRecord], space: SearchSpace) -> TrialRecord | None:
    """The trial of the first configuration that the space names."""
    if not space.first:
        return None
    point = space.parameters_of(space.first[0])
    return next((record for record in trials if point.items() <= space.parameters_in(record.recipe).items()), None)


def _itself(results: Results, published: TrialRecord) -> str:
    scored = [record for record in results.trials if record.state != "failed" and record.best is not None]
    others = [record for record in scored if record.number != published.number]
    said = f"The published recipe (trial {published.number}) itself won: of the {len(results.trials) - 1} other trials none was better"
    if not others:
        return f"{said}."
    second = max(others, key=lambda record: record.best or 0.0)
    behind = (published.best or 0.0) - (second.best or 0.0)
    return f"{said}. The next, trial {second.number}, is {behind:.3f} behind in {_score(results)}."


def _words(results: Results, published: TrialRecord, difference: float, epochs: int) -> list[str]:
    won, before = results.won, published.best or 0.0
    words = [
        f"{difference:+.3f} {_score(results)} over the published recipe (trial {published.number}): {before:.3f} → {won.best or 0.0:.3f}"
        + (f", {difference / before:+.1%} relative." if before else ".")
    ]
    ran = len(published.epochs)
    if published.state == "stopped":
        words.append(
            f"The published recipe was stopped early, after {ran} of {epochs} epochs, so a part of the difference is longer training: after "
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


def differing(published: TrialRecord, winner: TrialRecord) -> list[tuple[str, Any, Any]]:
    """Values of the recipe in which they differ, in the recipe's order; None for a value that one's schedule doesn't have."""
    before, after = _flat(published.recipe), _flat(winner.recipe)
    return [
        (name, before.get(name), after.get(name)) for name in {**before, **after} if before.get(name) != after.get(name)
    ]


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat
