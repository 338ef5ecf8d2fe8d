"""The check that a search space only widens another, so that a sweep may be extended."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.search.space import SearchSpace, build_space
from orchestration.search.widening import why_not_superset

RECIPE: dict[str, Any] = {"epochs": 8, "warm_epochs": 1, "alpha": 32.0}
SEARCH: dict[str, Any] = {
    "num_sub_blocks": {"choice": [2, 3]},
    "lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
    "schedule": {"choice": {"step": {"gamma": {"low": 0.2, "high": 0.9}}, "cosine": {}}},
}


def space(recipe: dict[str, Any] | None = None, search: dict[str, Any] | None = None, **more: Any) -> SearchSpace:
    return build_space({"recipe": recipe or RECIPE, "search": search or SEARCH, **more}, "test")


def without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


STEP = {"gamma": {"low": 0.2, "high": 0.9}}


@pytest.mark.parametrize(
    "newer",
    [
        space(),
        space(search=SEARCH | {"num_sub_blocks": {"choice": [6, 3, 2]}}),
        space(search=SEARCH | {"num_sub_blocks": {"low": 1, "high": 6}}),
        space(search=SEARCH | {"lr": {"low": 1e-5, "high": 1e-2, "log": True}}),
        space(search=SEARCH | {"schedule": {"choice": {"cosine": {}, "exponential": {}, "step": STEP}}}),
        # A former default, explicit or not, is now one of the searched values.
        space(
            search=SEARCH | {"schedule": {"choice": {"cosine": {}, "step": STEP | {"step": {"low": 2, "high": 20}}}}}
        ),
        space(search=SEARCH | {"margin": {"choice": [None, 0.2]}}),
        space(recipe=without(RECIPE, "alpha"), search=SEARCH | {"alpha": {"low": 16.0, "high": 64.0}}),
        space(recipe={**RECIPE, "clip_value": 10.0}),  # the default, now explicit
        space(first=[{"num_sub_blocks": 2}]),
    ],
)
def test_a_space_that_holds_all_of_the_older_one_widens_it(newer: SearchSpace) -> None:
    assert why_not_superset(space(), newer) == []


@pytest.mark.parametrize(
    ("newer", "said"),
    [
        (space(search=SEARCH | {"num_sub_blocks": {"choice": [3, 6]}}), "num_sub_blocks was searched with 2"),
        (space(search=SEARCH | {"lr": {"low": 2e-4, "high": 1e-2, "log": True}}), "lr was searched from 0.0001"),
        (space(search=SEARCH | {"lr": {"low": 1e-4, "high": 1e-2}}), "lr was searched in real numbers, logarithmic"),
        (
            space(search=SEARCH | {"lr": {"choice": [1e-4, 1e-2]}}),
            "lr was searched from 0.0001 to 0.01 and is now a choice",
        ),
        (space(search=SEARCH | {"schedule": {"choice": {"step": STEP}}}), "schedule was searched with 'cosine'"),
        (
            space(search=SEARCH | {"schedule": {"choice": {"cosine": {}, "step": {}}}}),
            "schedule.step.gamma was searched and isn't",
        ),
        (
            space(
                search=SEARCH | {"schedule": {"choice": {"cosine": {}, "step": STEP | {"step": {"low": 2, "high": 4}}}}}
            ),
            "schedule.step.step was fixed at 10",
        ),
        (space(search=without(SEARCH, "weight_decay")), "weight_decay was searched and isn't"),
        (space(recipe=RECIPE | {"alpha": 16.0}), "alpha was fixed at 32.0 and is now fixed at 16.0"),
        (space(recipe=without(RECIPE, "alpha")), "alpha was fixed at 32.0 and is now fixed at None"),
        (space(recipe=RECIPE | {"epochs": 9}), "epochs was fixed at 8"),
        (
            space(recipe=without(RECIPE, "alpha"), search=SEARCH | {"alpha": {"choice": [16.0, 64.0]}}),
            "alpha was fixed at 32.0, which isn't among",
        ),
    ],
)
def test_what_is_narrowed_or_changed_is_named(newer: SearchSpace, said: str) -> None:
    found = why_not_superset(space(), newer)
    assert len(found) == 1
    assert said in found[0]


def test_a_fixed_schedule_may_be_searched_among_others() -> None:
    fixed = space(
        recipe=RECIPE | {"schedule": {"kind": "step", "step": 5, "gamma": 0.5}}, search=without(SEARCH, "schedule")
    )
    assert (
        why_not_superset(
            fixed,
            space(
                search=SEARCH
                | {"schedule": {"choice": {"cosine": {}, "step": {"step": {"low": 1, "high": 9}, **STEP}}}}
            ),
        )
        == []
    )
    assert (
        "schedule was fixed at"
        in why_not_superset(fixed, space(search=SEARCH | {"schedule": {"choice": {"cosine": {}}}}))[0]
    )
