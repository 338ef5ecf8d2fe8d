"""Configuration of all tests, which share the machine's few cores with other jobs."""

from __future__ import annotations

import gc
from collections import defaultdict
from typing import Any

import pytest

from tests import budgets, forked
from tests.budgets import budget_of, module_of

# Modules that run Ray on this machine run one at a time, because two would compete for its cores.
# They also share a cluster and a sweep.
ON_RAY = (
    "test_classification_sweep",
    "test_extended_sweep",
    "test_failing_trials",
    "test_find_cluster",
    "test_forked",
    "test_gpus",
    "test_interruption",
    "test_pack_cluster",
    "test_protocols",
    "test_readme",
    "test_report_page",
    "test_sweep",
    "test_wandb",
)
GROUPS = {f"tests/integration/{module}.py": "on Ray" for module in ON_RAY}


def group_of(module: str) -> str:
    """Return the group of a module, by default its own name; one process runs a whole group."""
    return GROUPS.get(module, module)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(budgets)
    # pytest-xdist sets the attribute in its workers.
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        forked.share()
    # The first process of pytest-xdist runs no tests, so it needs no imports.
    if is_worker or not config.getoption("numprocesses", None):
        # Collecting garbage during the imports would find none and take 3 seconds per process.
        gc.disable()
        import torch

        torch.set_num_threads(1)
        config.pluginmanager.import_plugin("tests.s3.locations")


def pytest_collection_finish() -> None:
    # Processes that tests fork then don't copy the pages of these objects.
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process one group at a time (`pytest -n 2 --dist loadscope`).

    xdist's own marks for groups do nothing in pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(module_of(nodeid))

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that take longest, so that none of them runs alone at the end."""
    seconds: dict[str, float] = defaultdict(float)
    for module in {module_of(item.nodeid) for item in items}:
        seconds[group_of(module)] += budget_of(module)
    items.sort(key=lambda item: (-seconds[group_of(module_of(item.nodeid))], group_of(module_of(item.nodeid))))
