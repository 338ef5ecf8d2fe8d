"""For all tests: several of them, and other jobs, share the machine's few cores."""

from __future__ import annotations

import gc
from collections import defaultdict
from typing import Any

import pytest

from tests import budgets, forked
from tests.budgets import budget_of, module_of

# Modules on a Ray of this machine: one at a time, for two would wait for each other's processor. They share a cluster and a sweep too.
ON_RAY = (
    "test_classification_sweep",
    "test_extended_sweep",
    "test_failing_trials",
    "test_find_cluster",
    "test_forked",
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
    """Return what a module shares with others, its own name if nothing: modules of a group run in one process."""
    return GROUPS.get(module, module)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(budgets)
    is_worker = hasattr(config, "workerinput")  # of pytest-xdist
    if not is_worker:
        forked.share()
    # The first process of pytest-xdist runs no tests: it has nothing to import.
    if is_worker or not config.getoption("numprocesses", None):
        gc.disable()  # until all is imported: none of it is garbage, and to look for some takes 3 seconds per process
        import torch

        torch.set_num_threads(1)
        config.pluginmanager.import_plugin("tests.s3.places")


def pytest_collection_finish() -> None:
    gc.freeze()  # a process that is forked for a test copies no page of these
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand a group to a process at a time (`pytest -n 2 --dist loadscope`); xdist's own marks for groups do nothing in pytest 9."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(module_of(nodeid))

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that take longest, so that no process is left with one of them."""
    seconds: dict[str, float] = defaultdict(float)
    for module in {module_of(item.nodeid) for item in items}:
        seconds[group_of(module)] += budget_of(module)
    items.sort(key=lambda item: (-seconds[group_of(module_of(item.nodeid))], group_of(module_of(item.nodeid))))
