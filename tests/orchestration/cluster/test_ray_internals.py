"""Ray's private names: one file has them all, and the installed version has each of them."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import dfml
import orchestration
from orchestration.cluster import ray_internals
from orchestration.cluster.ray_internals import MEMBERS, NAMES, SNAPSHOT

PRIVATE = re.compile(
    r"ray\.(.*\.)?_\w+(\..*)?|ray\.core\.generated.*|ray\.experimental.*|ray\.autoscaler.*|ray\.train\.v2.*"
)
FILES = [
    file
    for package in (dfml, orchestration)
    for file in sorted(Path(package.__path__[0]).rglob("*.py"))
    if file != Path(ray_internals.__file__)
]


def imported(file: Path) -> list[str]:
    """Return the full names of a file's imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{name.name}" for name in node.names]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_other_file_imports_a_private_name_of_ray(file: Path) -> None:
    assert [name for name in imported(file) if PRIVATE.fullmatch(name)] == []


def test_the_check_knows_a_private_name() -> None:
    for module, _ in NAMES.values():
        assert PRIVATE.fullmatch(f"{module}.Anything") or module.startswith("ray.")
    assert PRIVATE.fullmatch("ray._private.state.state")
    assert PRIVATE.fullmatch("ray.train.v2._internal.constants.NAME")
    assert not PRIVATE.fullmatch("ray.train.Checkpoint")


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_and_has_its_reason(name: str) -> None:
    module, reason = NAMES[name]
    assert getattr(ray_internals, name) is getattr(import_module(module), name)
    assert len(reason) > 15


@pytest.mark.parametrize("member", [name for name in MEMBERS if name.startswith("DataParallelTrainer.")])
def test_each_method_that_is_overridden_is_there(member: str) -> None:
    owner, method = member.split(".")
    assert callable(getattr(getattr(ray_internals, owner), method))


def test_a_policys_failures_are_counted_where_they_are_forgiven() -> None:
    from ray.train import FailureConfig

    policy = ray_internals.DefaultFailurePolicy(FailureConfig())
    before = set(vars(policy))
    ray_internals.forget_failures(policy)
    assert set(vars(policy)) == before


def test_the_snapshots_name_is_rays() -> None:
    assert ray_internals.CHECKPOINT_MANAGER_SNAPSHOT_FILENAME == SNAPSHOT
