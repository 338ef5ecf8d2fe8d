"""Search spaces: sampling and validation."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import optuna
import pytest

from dfml.data.datasets import REPOSITORY
from dfml.errors import InvalidInput
from dfml.recipe import Recipe, recipe_from
from dfml.schedule import StepDecay
from orchestration.search.space import SearchSpace, build_space, read_space

SCHEDULES = {
    "step": {"step": {"low": 1, "high": 4}, "gamma": {"low": 0.2, "high": 0.9}},
    "cosine": {},
    "exponential": {"gamma": {"low": 0.5, "high": 0.9}},
}


def space(**changes: Any) -> SearchSpace:
    content = {
        "recipe": {"epochs": 8},
        "search": {
            "num_sub_blocks": {"choice": [2, 3]},
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "schedule": {"choice": SCHEDULES},
        },
    }
    return build_space(content | changes, "test.yaml")


def test_samples_lie_in_their_domains() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        recipe = space().suggest(study.ask())
        assert recipe.num_sub_blocks in (2, 3)
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
        ({"recipe": {"color": 1}}, ["'color'", "num_sub_blocks"]),
        ({"search": {"lr": {"low": 2, "high": 1}}}, ["lr", "low 2", "high 1"]),
        ({"search": {"lr": {"low": 0, "high": 1, "log": True}}}, ["lr", "above 0"]),
        ({"search": {"lr": {"low": -1.0, "high": 1}}}, ["lr", "-1.0", "greater than 0"]),
        ({"search": {"lr": {"lo": 1, "high": 2}}}, ["lr", "lo"]),
        ({"search": {"lr": 3}}, ["lr"]),
        ({"search": {"num_sub_blocks": {"choice": []}}}, ["num_sub_blocks", "empty"]),
        ({"search": {"num_sub_blocks": {"choice": [0]}}}, ["num_sub_blocks", "0"]),
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
        # Values that are legal alone, but not together.
        ({"search": {"warm_epochs": {"choice": [0, 1, 8]}}}, ["warm_epochs 8", "8 epochs"]),
        ({"search": {"warm_epochs": {"low": 0, "high": 8}}}, ["warm_epochs 8", "8 epochs"]),
        ({"search": {"batch_size": {"choice": [48, 50]}, "images_per_class": {"choice": [2, 4]}}}, ["4", "50"]),
        ({"search": {"batch_size": {"low": 48, "high": 52}, "images_per_class": {"choice": [None, 4]}}}, ["4", "49"]),
        ({"search": {"batch_size": {"choice": [48, 64]}}, "recipe": {"images_per_class": 6}}, ["6", "64"]),
        (
            {"search": {"loss": {"choice": ["proxy_anchor", "proxy_nca"]}, "alpha": {"low": 16.0, "high": 64.0}}},
            ["proxy_nca", "alpha"],
        ),
        (
            {"search": {"loss": {"choice": ["proxy_anchor", "ms"]}, "images_per_class": {"choice": [None, 2]}}},
            ["ms", "images_per_class"],
        ),
        (
            {"search": {"routed_weight": {"low": 0.0, "high": 1.0}}, "recipe": {"inference": "routed"}},
            ["routed", "routed_weight"],
        ),
        ({"search": {"images_per_class": {"choice": [[2]]}}}, ["images_per_class"]),
        # Values that `Recipe` would convert to another value.
        ({"search": {"lr": {"choice": ["1e-4", 3e-4]}}}, ["lr", "'1e-4'", "0.0001"]),
        ({"search": {"margin": {"low": 0, "high": 1}}}, ["margin", "integers", "0.0 and 1.0"]),
        ({"search": {"batch_size": {"low": 32, "high": 128.0}}}, ["batch_size", "integer"]),
        ({"search": {"schedule": {"choice": {"step": {"step": {"low": 1.0, "high": 2.0}}}}}}, ["step", "integer"]),
        ({"first": [{"num_sub_blocks": 2.5}]}, ["num_sub_blocks", "2.5", "outside"]),
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


def test_a_value_fixed_and_searched_names_the_source_and_the_file() -> None:
    with pytest.raises(InvalidInput) as refused:
        space().fixed({"lr": 1e-3}, "the command line", Path("spaces/mine.yaml"))
    assert str(refused.value) == (
        "'lr' is fixed on the command line and searched in spaces/mine.yaml; remove one of the two"
    )


def test_fixed_values_reach_every_sample() -> None:
    fixed = space().fixed({"alpha": 16.0, "epochs": 9}, "the command line", Path("mine.yaml"))
    recipe = fixed.suggest(optuna.create_study().ask())
    assert (recipe.alpha, recipe.epochs) == (16.0, 9)


def test_first_configurations_become_optunas_parameters() -> None:
    found = space().parameters_of({"num_sub_blocks": 3, "schedule": {"kind": "step", "step": 2, "gamma": 0.5}})
    assert found == {"num_sub_blocks": 3, "schedule": "step", "schedule.step.step": 2, "schedule.step.gamma": 0.5}


def test_values_that_are_legal_together_only_are_taken_together() -> None:
    """`ms` needs images_per_class, which is searched too."""
    both = {"loss": {"choice": ["proxy_anchor", "ms"]}, "images_per_class": {"choice": [2, 4]}}
    found = space(search=both)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = [found.suggest(study.ask()) for _ in range(20)]
    assert {(recipe.loss, recipe.images_per_class) for recipe in recipes} == set(
        itertools.product(["proxy_anchor", "ms"], [2, 4])
    )


def test_a_choice_may_hold_what_a_recipe_leaves_out() -> None:
    found = space(search={"images_per_class": {"choice": [None, 4]}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {found.suggest(study.ask()).images_per_class for _ in range(20)} == {None, 4}


def test_defaults_are_a_recipe_of_the_space() -> None:
    """This holds even if a searched value's own default is illegal: five warm epochs of three."""
    found = space(recipe={"epochs": 3}, search={"warm_epochs": {"choice": [0, 1]}})
    assert (found.defaults().epochs, found.defaults().warm_epochs) == (3, 0)


def test_parameters_are_read_back_from_a_recipe() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        recipe = space().suggest(trial)
        assert space().parameters_in(recipe) == trial.params


SPACES = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))
OBJECTIVE = ["routed_weight", "embedding_reconstruction", "stream_reconstruction"]
ALWAYS = ["num_sub_blocks", "blocks", "lr", "schedule", "warm_epochs", "weight_decay", *OBJECTIVE]
RETRIEVAL = [*ALWAYS, "proxy_lr_multiplier", "margin"]
FULL = [*RETRIEVAL, "alpha", "batch_size", "images_per_class"]
SEARCHED = {
    **dict.fromkeys(["cub", "cars", "sop", "inshop"], FULL),
    "emoji": RETRIEVAL,
    "imagenet": [*ALWAYS, "label_smoothing", "batch_size"],
}


def test_there_is_a_space_for_each_data_set() -> None:
    assert [file.stem for file in SPACES] == sorted(SEARCHED)


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_all_that_a_shipped_space_samples_is_legal(file: Path) -> None:
    found = read_space(file)
    assert sorted(found.search) == sorted(SEARCHED[file.stem])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(300):
        found.suggest(study.ask())


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_first_trial_of_a_shipped_space_leaves_nothing_to_chance(file: Path) -> None:
    found = read_space(file)
    assert list(found.first[0]) == list(found.search)


@pytest.mark.parametrize(
    ("name", "lr", "warm_epochs", "step", "gamma"),
    [
        ("cub", 1e-4, 5, 5, 0.5),
        ("cars", 1e-4, 5, 10, 0.5),
        ("sop", 6e-4, 1, 10, 0.25),
        ("inshop", 6e-4, 1, 10, 0.25),
    ],
)
def test_the_first_trial_is_the_published_recipe(
    name: str, lr: float, warm_epochs: int, step: int, gamma: float
) -> None:
    """The defaults of `Recipe` are the publication's for CUB; the loss sets alpha and margin.

    Only the precision is left to the device.
    """
    found = read_space(REPOSITORY / "search_spaces" / f"{name}.yaml")
    first = recipe_from({**found.recipe, **found.first[0]})
    published = Recipe(
        lr=lr,
        warm_epochs=warm_epochs,
        schedule=StepDecay(step=step, gamma=gamma),
        alpha=32.0,
        margin=0.1,
        precision="auto",
    )
    assert first == published


@pytest.mark.parametrize("name", ["cub", "cars", "sop", "inshop"])
def test_each_batch_shape_can_be_filled(name: str) -> None:
    """A trial has four fifths of the training classes (in total 100, 98, 11,318 and 3,997)."""
    found = read_space(REPOSITORY / "search_spaces" / f"{name}.yaml")
    classes = round(0.8 * {"cub": 100, "cars": 98, "sop": 11318, "inshop": 3997}[name])
    shapes = itertools.product(found.values_of("batch_size"), found.values_of("images_per_class"))
    assert all(images is None or batch // images <= classes for batch, images in shapes)


def test_numbers_may_be_written_as_yaml_1_2_has_them(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("recipe: {alpha: 1.6e1}\nsearch: {lr: {choice: [1e-4, 3E-4, .5e-3, 2.e+0]}}\nfirst: [{lr: 1e-4}]\n")
    found = read_space(file)
    assert found.search["lr"].extremes() == [1e-4, 3e-4, 5e-4, 2.0]
    assert found.parameters_of(found.first[0]) == {"lr": 1e-4}


def test_points_that_were_tried_are_not_tried_again() -> None:
    found = space(first=[{"num_sub_blocks": 2, "lr": 1e-3}, {"num_sub_blocks": 3, "lr": 1e-3}])
    tried = {"num_sub_blocks": 3, "lr": 1e-3, "schedule": "cosine"}
    assert found.first_untried([tried]) == [{"num_sub_blocks": 2, "lr": 1e-3}]


def test_a_missing_file_and_one_that_is_not_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="doesn't exist"):
        read_space(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("search: [")
    with pytest.raises(InvalidInput, match="isn't valid YAML"):
        read_space(tmp_path / "bad.yaml")
