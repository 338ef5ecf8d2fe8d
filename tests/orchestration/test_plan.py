"""A plan is stored with the sweep, and another one under the same name is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfml.data.datasets import DATASETS
from dfml.errors import InvalidInput
from orchestration.plan import Plan, git_revision
from orchestration.search_space import build_space


def plan(**changes: Any) -> Plan:
    space = build_space({"search": {"routers": {"choice": [2, 3]}}}, "test")
    values = {
        "name": "a",
        "dataset": "emoji",
        "data": str(DATASETS["emoji"]),
        "trials": 3,
        "workers_per_trial": 2,
        "seed": 0,
    }
    return Plan(**values | {"space": space} | changes)


def test_a_stored_plan_is_known_again(tmp_path: Path) -> None:
    assert not plan().is_stored(str(tmp_path))
    plan().store(str(tmp_path))
    assert plan().is_stored(str(tmp_path))
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert stored["git_revision"] == git_revision()
    assert stored["versions"]["ray"] == "2.60.0"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"trials": 4}, "trials"),
        ({"space": build_space({"search": {"routers": {"choice": [2, 4]}}}, "test")}, "space.search.routers.choice"),
    ],
)
def test_another_plan_is_refused_with_the_difference(changes: dict[str, Any], name: str, tmp_path: Path) -> None:
    plan().store(str(tmp_path))
    with pytest.raises(InvalidInput, match=f"begun with {name} = "):
        plan(**changes).is_stored(str(tmp_path))


def test_a_data_set_without_test_split_is_refused(tmp_path: Path) -> None:
    from dfml.data.dataset import ShardedImages
    from dfml.data.packing import pack
    from dfml.data.shards import ImageRow

    images = ShardedImages(DATASETS["emoji"], "train")
    pack([ImageRow(images.encoded(0), "a", "a.webp", "train")], tmp_path, "half")
    with pytest.raises(InvalidInput, match="no split 'test'"):
        plan(data=str(tmp_path)).check(tmp_path / "cache")


def test_a_batch_smaller_than_the_workers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="batch_size 120 is smaller than --workers-per-trial 121"):
        plan(workers_per_trial=121).check(Path("unused"))
