"""The panels of the Grafana dashboard and their queries."""

from __future__ import annotations

import json
import re
from typing import Any

from dfml.data.datasets import REPOSITORY

CALLBACKS = REPOSITORY / "orchestration" / "callbacks"
DASHBOARD: dict[str, Any] = json.loads((CALLBACKS / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def metrics_in(query: str) -> set[str]:
    """Return the names of the metrics in a query; all begin with `ray_`."""
    return set(re.findall(r"\bray_\w+", query))
