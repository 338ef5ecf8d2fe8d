"""For all tests: several of them, and other jobs, share the machine's few cores."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from tests.budgets import budget_of, module_of

pytest_plugins = ["tests.s3.places", "tests.budgets"]

torch.set_num_threads(1)

# Modules that share what is costly to start, by it: `finished`, a sweep; `head`, a Ray cluster (integration/conftest.py).
SHARED = {
    "finished": ("test_sweep", "test_interruption", "test_wandb", "test_report_page", "test_readme"),
    "head": (
        "test_protocols",
        "test_failing_trials",
        "test_extended_sweep",
        "test_classification_sweep",
        "test_find_cluster",
    ),
}
GROUPS = {f"tests/integration/{module}.py": name for name, modules in SHARED.items() for module in modules}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests in one process, and modules that share something; begin with what takes longest.

    For `pytest -n 2 --dist loadgroup --no-loadscope-reorder`, which hands a group to a process at a time.
    """
    seconds: dict[str, float] = defaultdict(float)
    group_of = {module: GROUPS.get(module, module) for module in map(module_of, (item.nodeid for item in items))}
    for module, group in group_of.items():
        seconds[group] += budget_of(module)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of[module_of(item.nodeid)]))
    items.sort(key=lambda item: -seconds[group_of[module_of(item.nodeid)]])
