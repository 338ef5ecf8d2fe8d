"""Time budgets of the test modules (`budgets.toml`).

At the end a run lists the ten modules that exceed their budgets by most; no test fails for it.
"""

from __future__ import annotations

import functools
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

BUDGETS = Path(__file__).with_name("budgets.toml")
SHOWN = 10
SPENT = pytest.StashKey[dict[str, float]]()


def module_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@functools.cache
def _budgets() -> dict[str, float]:
    content: dict[str, float] = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))
    return content


def budget_of(module: str) -> float:
    """Return the seconds that a module may take on two cores with nothing else running."""
    return _budgets().get(module, _budgets()["other"])


def pytest_configure(config: pytest.Config) -> None:
    spent: dict[str, float] = defaultdict(float)
    config.stash[SPENT] = spent

    class ElapsedTime:
        @staticmethod
        def pytest_runtest_logreport(report: pytest.TestReport) -> None:
            spent[module_of(report.nodeid)] += report.duration

    config.pluginmanager.register(ElapsedTime())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    spent = config.stash[SPENT]
    over = sorted(
        ((seconds - budget_of(module), module) for module, seconds in spent.items() if seconds > budget_of(module)),
        reverse=True,
    )
    if over:
        terminalreporter.section(f"modules over their budget (tests/{BUDGETS.name})")
        for excess, module in over[:SHOWN]:
            budget = budget_of(module)
            terminalreporter.line(f"{budget + excess:6.0f} s of {budget:3.0f} s  {module}")
        if len(over) > SHOWN:
            terminalreporter.line(f"and {len(over) - SHOWN} more")
