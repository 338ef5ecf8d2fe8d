"""Search spaces: what they sample, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from dfml.data.datasets import REPOSITORY
from dfml.errors import InvalidInput
from orchestration.search_space import SearchSpace, build_space, read_space

SCHEDULES = {
    "step": {"step": {"low": 1, "high": 4}, "gamma": {"low": 0.2, "high": 0.9}},
    "cosine": {},
    "exponential": {"gamma": {"low": 0.5, "high": 0.9}},
}


def space(**changes: Any) -> SearchSpace:
    content = {
        "recipe": {"epochs": 8},
        "search": {
            "routers": {"choice": [2, 3]},
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "schedule": {"choice": SCHEDULES},
        },
    }
    return build_space(content | changes, "test.yaml")


def test_samples_lie_in_their_domains() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        recipe = space().suggest(study.ask())
        assert recipe.routers in (2, 3)
        assert 1e-4 <= recipe.lr <= 1e-2
        assert recipe.epochs == 8


def test_a_schedules_values_are_sampled_only_for_the_kind_chosen() -> None:
    kinds = set()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        trial = study.ask()
        recipe = space().suggest(trial)
        kind = recipe.schedule.kind
        kinds.add(kind)
        conditional = {name for name in trial.params if name.startswith("schedule.")}
        assert conditional == {f"schedule.{kind}.{name}" for name in SCHEDULES[kind]}
    assert kinds == {"step", "cosine", "exponential"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search": {"learning_rate": {"low": 1, "high": 2}}}, ["'learning_rate'", "lr"]),
        ({"recipe": {"colour": 1}}, ["'colour'", "routers"]),
        ({"search": {"lr": {"low": 2, "high": 1}}}, ["lr", "low 2", "high 1"]),
        ({"search": {"lr": {"low": 0, "high": 1, "log": True}}}, ["lr", "above 0"]),
        ({"search": {"lr": {"low": -1.0, "high": 1}}}, ["lr", "-1.0", "greater than 0"]),
        ({"search": {"lr": {"lo": 1, "high": 2}}}, ["lr", "lo"]),
        ({"search": {"lr": 3}}, ["lr"]),
        ({"search": {"routers": {"choice": []}}}, ["routers", "empty"]),
        ({"search": {"routers": {"choice": [0]}}}, ["routers", "0"]),
        ({"search": {"schedule": {"choice": {"poly": {}}}}}, ["'poly'", "cosine"]),
        ({"search": {"schedule": {"choice": {"cosine": {"gamma": {"low": 0.1, "high": 0.2}}}}}}, ["cosine", "'gamma'"]),
        ({"search": {"schedule": {"choice": {"step": {"gamma": {"low": 0.1, "high": 2}}}}}}, ["gamma", "2"]),
        ({"search": {"schedule": {"choice": ["step", "cosine"]}}}, ["schedule"]),
        ({"recipe": {}, "search": {"epochs": {"low": 2, "high": 9}}}, ["'epochs'", "ASHA"]),
        ({"search": {}}, ["nothing is searched"]),
        ({"recipe": {"lr": 1e-3}}, ["'lr'", "fixed", "searched"]),
        ({"first": [{"alpha": 16}]}, ["'alpha'", "isn't searched"]),
        ({"first": [{"lr": 1.0}]}, ["lr", "1.0", "outside"]),
        ({"first": [{"schedule": {"kind": "step", "step": 9}}]}, ["schedule.step.step", "9"]),
        ({"find": {}}, ["find"]),
    ],
)
def test_a_space_that_cannot_be_used_is_refused_in_one_sentence(changes: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        space(**changes)
    message = str(refused.value)
    assert message.startswith("test.yaml")
    assert "\n" not in message
    for part in said:
        assert part in message


def test_a_value_fixed_and_searched_names_both_places() -> None:
    with pytest.raises(InvalidInput, match=r"'lr' is fixed on the command line \(0.001\) and searched"):
        space().fixed({"lr": 1e-3}, "the command line")


def test_fixed_values_reach_every_sample() -> None:
    fixed = space().fixed({"alpha": 16.0, "epochs": 9}, "the command line")
    recipe = fixed.suggest(optuna.create_study().ask())
    assert (recipe.alpha, recipe.epochs) == (16.0, 9)


def test_first_configurations_become_optunas_parameters() -> None:
    found = space().parameters_of({"routers": 3, "schedule": {"kind": "step", "step": 2, "gamma": 0.5}})
    assert found == {"routers": 3, "schedule": "step", "schedule.step.step": 2, "schedule.step.gamma": 0.5}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "search_spaces").glob("*.yaml")), ids=lambda file: file.stem)
def test_spaces_that_ship_are_legal(file: Path) -> None:
    assert read_space(file).search


def test_a_missing_file_and_one_that_is_not_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="doesn't exist"):
        read_space(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("search: [")
    with pytest.raises(InvalidInput, match="not YAML"):
        read_space(tmp_path / "bad.yaml")
