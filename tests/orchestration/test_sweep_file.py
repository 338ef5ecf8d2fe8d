"""The stored plan of a sweep: a different one is refused, unless --extend allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfml.data.format.manifest import manifest_sha256
from dfml.data.packing.pack import pack
from dfml.errors import InvalidInput
from orchestration.plan import Plan, git_revision
from orchestration.search.budget import Budget
from orchestration.search.space import SearchSpace, build_space
from orchestration.sweep_file import SweepFile
from tests.packed import many
from tests.plans import plan_of


def space(high: float = 1e-3, choice: tuple[int, ...] = (2, 3), **recipe: Any) -> SearchSpace:
    search = {"num_sub_blocks": {"choice": list(choice)}, "lr": {"low": 1e-4, "high": high, "log": True}}
    return build_space({"recipe": recipe, "search": search}, "test")


def plan(**changes: Any) -> Plan:
    return plan_of(**{"space": space(), **changes})


def begin(plan: Plan, sweep: Path | str) -> str:
    """Start a sweep in a folder; return the folder."""
    SweepFile.of(plan).save(str(sweep))
    return str(sweep)


def check_same(plan: Plan, sweep: str) -> None:
    found = SweepFile.load(sweep)
    assert found is not None
    found.check_same(plan, sweep)


def is_extended(plan: Plan, sweep: str) -> bool:
    found = SweepFile.load(sweep)
    assert found is not None
    return found.is_extended_by(plan, sweep)


@pytest.fixture
def begun(tmp_path: Path) -> str:
    return begin(plan(), tmp_path)


def test_a_stored_plan_is_known_again(tmp_path: Path) -> None:
    assert SweepFile.load(str(tmp_path)) is None
    begin(plan(), tmp_path)
    check_same(plan(), str(tmp_path))
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert stored["git_revision"] == git_revision()
    assert stored["versions"]["ray"] == "2.60.0"


def test_what_a_sweep_was_begun_with_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run_sweep.py", "--name", "two words"])
    found = SweepFile.load(begin(plan(), tmp_path))
    assert found is not None
    assert found.plan == plan()
    assert found.command == "python run_sweep.py --name 'two words'"
    assert found.manifest_sha256 == manifest_sha256(plan().data)


def test_an_extended_sweep_keeps_the_time_at_which_it_was_begun(begun: str) -> None:
    before = SweepFile.load(begun)
    assert before is not None
    before = before.model_copy(update={"created": "2026-01-01T00:00:00+00:00"})
    after = SweepFile.of(plan(trials=9), before)
    assert (after.created, after.plan.trials) == (before.created, 9)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"trials": 4}, "trials = 3, now it is 4"),
        ({"protocol": "paper"}, "protocol = 'holdout', now it is 'paper'"),
        ({"space": space(choice=(2, 4))}, "space.search.num_sub_blocks.choice"),
        ({"space": space(alpha=16.0)}, "space.recipe.alpha = None, now it is 16.0"),
        ({"budget": Budget(epochs=9)}, "budget"),
    ],
)
def test_another_plan_is_refused_with_the_difference(changes: dict[str, Any], name: str, begun: str) -> None:
    with pytest.raises(InvalidInput, match="begun with") as refused:
        check_same(plan(**changes), begun)
    assert name in str(refused.value)
    assert "--extend" in str(refused.value)


@pytest.mark.parametrize("known", [check_same, is_extended])
def test_data_that_were_packed_anew_at_the_same_place_are_refused(known: Any, tmp_path: Path) -> None:
    data, sweep = str(tmp_path / "data"), str(tmp_path / "sweep")
    pack([*many(4, 3), *many(2, 2, "test")], tmp_path / "data", "mine")
    begin(plan(data=data), sweep)
    check_same(plan(data=data), sweep)
    pack([*many(5, 3), *many(2, 2, "test")], tmp_path / "data", "mine", overwrite=True)
    with pytest.raises(InvalidInput, match=r"other content of .*; restore the old data") as refused:
        known(plan(data=data), sweep)
    assert manifest_sha256(data)[:12] in str(refused.value)


def test_all_differences_are_named(begun: str) -> None:
    with pytest.raises(InvalidInput, match=r"seed = 0.*; trials = 3"):
        check_same(plan(seed=1, trials=4), begun)


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 9},
        {"reproductions": 3},
        {"space": space(high=1e-2)},
        {"space": space(choice=(2, 3, 6))},
        {"trials": 5, "space": space(high=1e-2, choice=(2, 3, 6))},
    ],
)
def test_what_only_grows_widens_a_sweep(changes: dict[str, Any], begun: str) -> None:
    assert is_extended(plan(**changes), begun)


def test_the_same_plan_widens_nothing(begun: str) -> None:
    assert not is_extended(plan(), begun)


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 2},
        {"seed": 1},
        {"protocol": "paper"},
        {"budget": Budget(epochs=9)},
        {"space": space(high=5e-4)},
        {"space": space(choice=(2, 6))},
        {"space": space(alpha=16.0)},
        {"trials": 9, "workers_per_trial": 1},
    ],
)
def test_what_shrinks_or_differs_is_refused(changes: dict[str, Any], begun: str) -> None:
    with pytest.raises(InvalidInput, match="--extend can't turn"):
        is_extended(plan(**changes), begun)
    check_same(plan(), begun)  # the file is unchanged


@pytest.mark.parametrize(
    ("before", "now", "grows"),
    [
        (Budget(epochs=9), Budget(epochs=10), True),
        (Budget(epochs=9), None, True),
        (Budget(epochs=9), Budget(epochs=8), False),
        (Budget(hours=2), Budget(hours=3), True),
        (Budget(hours=2), Budget(epochs=900), False),
    ],
)
def test_a_budget_may_be_raised_or_dropped(before: Budget, now: Budget | None, grows: bool, tmp_path: Path) -> None:
    begin(plan(budget=before), tmp_path)
    if grows:
        assert is_extended(plan(budget=now), str(tmp_path))
    else:
        with pytest.raises(InvalidInput, match="budget"):
            is_extended(plan(budget=now), str(tmp_path))


def test_workers_that_are_left_open_are_those_that_the_sweep_was_begun_with(tmp_path: Path) -> None:
    found = SweepFile.load(begin(plan(workers_per_trial=3), tmp_path))
    assert found is not None
    check_same(found.with_workers(plan(workers_per_trial=None)), str(tmp_path))
    with pytest.raises(InvalidInput, match="workers_per_trial = 3, now it is 2"):
        check_same(found.with_workers(plan(workers_per_trial=2)), str(tmp_path))
