"""The comparison of the winner with the recipe tried first, in all cases."""

from __future__ import annotations

import pytest

from dfml.data.datasets import REPOSITORY
from dfml.recipe import Recipe, recipe_from
from orchestration.report.improvement import Improvement, improvement, is_published
from orchestration.search.space import build_space, read_space
from tests.sweep_results import SPACE, record, results_of_trials, trials

EPOCHS = 4


def gain_of(*told: tuple[str, list[float]]) -> Improvement:
    return improvement(results_of_trials(trials(*told)), SPACE, EPOCHS, "mine")


def test_the_winner_is_better_by_the_difference_of_their_best_scores() -> None:
    found = gain_of(("finished", [0.4, 0.5, 0.45, 0.45]), ("finished", [0.5, 0.55, 0.6, 0.58]))
    assert found.first is not None
    assert found.first.number == 0
    assert found.difference == pytest.approx(0.1)
    assert found.words[0] == (
        "+0.100 R@1 on validation classes over the recipe tried first (trial 0): 0.500 → 0.600, +20.0% relative."
    )
    assert "best of 2 trials by this score" in found.words[-1]
    assert len(found.words) == 2


def test_the_values_that_differ_are_the_recipes_own() -> None:
    records = trials(*[("finished", [0.4])] * 12)
    before, after = records[0].recipe, next(one.recipe for one in records if one.recipe.schedule.kind == "step")
    records[1].recipe = after
    records[1].epochs = record(1, 0.5).epochs
    found = {name: pair for name, *pair in improvement(results_of_trials(records), SPACE, EPOCHS, "mine").differing}
    assert found["lr"] == [1e-3, after.lr]
    assert found["schedule.kind"] == ["cosine", "step"]
    assert found["schedule.gamma"] == [None, after.model_dump()["schedule"]["gamma"]]
    same = [name for name in Recipe.model_fields if getattr(before, name) == getattr(after, name)]
    assert same
    assert not set(found) & set(same)


def test_a_first_recipe_that_was_stopped_is_compared_at_its_own_length_too() -> None:
    words = gain_of(("stopped", [0.4, 0.5]), ("finished", [0.45, 0.53, 0.6, 0.7])).words
    assert words[0].startswith("+0.200 R@1")
    assert "stopped early, after 2 of 4 epochs" in words[1]
    assert "after as many epochs the winner had 0.530, a difference of +0.030." in words[1]


def test_a_winner_that_was_itself_stopped_is_said() -> None:
    words = gain_of(("finished", [0.4, 0.5, 0.5, 0.5]), ("stopped", [0.45, 0.53])).words
    assert words[1] == "The winner was itself stopped early, after 2 of 4 epochs."


def test_the_first_recipe_may_win() -> None:
    found = gain_of(("finished", [0.4, 0.6]), ("failed", [0.9]), ("stopped", [0.55]), ("finished", [0.5]))
    assert found.difference is None
    assert found.words == [
        "The recipe tried first (trial 0) itself won: none of the 3 other trials was better. The second best, trial 2, "
        "is 0.050 behind in R@1 on validation classes."
    ]


def test_a_first_recipe_that_failed_is_no_comparison() -> None:
    found = gain_of(("failed", [0.9]), ("finished", [0.5]))
    assert found.difference is None
    assert found.words == [
        "The recipe tried first (trial 0) failed, so there is no comparison with it: the loss is nan."
    ]


def test_a_space_without_a_first_recipe_has_none() -> None:
    space = build_space({**SPACE.model_dump(exclude_defaults=True), "first": []}, "test")
    found = improvement(results_of_trials(trials(("finished", [0.5]), space=space)), space, EPOCHS, "mine")
    assert found.first is None
    assert "none to compare the winner with" in found.words[0]


@pytest.mark.parametrize("dataset", ["cub", "cars", "sop", "inshop", "emoji"])
def test_only_the_publications_own_recipes_are_called_published(dataset: str) -> None:
    space = read_space(REPOSITORY / "search_spaces" / f"{dataset}.yaml")
    recipe = {**space.recipe, **space.first[0]}
    assert is_published(recipe_from(recipe), dataset) == (dataset in ("cub", "cars", "sop"))
    assert not is_published(recipe_from({**recipe, "epochs": 7}), dataset)
    if dataset == "sop":
        assert is_published(recipe_from({**recipe, "seed": 3, "precision": "bfloat16"}), "SOP")


def test_a_published_recipe_is_called_so() -> None:
    space = read_space(REPOSITORY / "search_spaces" / "cub.yaml")
    records = trials(("finished", [0.5]), ("finished", [0.6]))
    records[0].recipe = recipe_from({**space.recipe, **space.first[0]})
    found = improvement(results_of_trials(records), space, 60, "cub")
    assert "+0.100 R@1 on validation classes over the published recipe (trial 0)" in found.words[0]
