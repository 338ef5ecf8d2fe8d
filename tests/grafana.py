"""The Grafana dashboard as its panels' queries."""

from __future__ import annotations

import json
import re
from typing import Any

from dfml.data.datasets import REPOSITORY

MONITORING = REPOSITORY / "orchestration" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def metrics_in(query: str) -> set[str]:
    """The names of the metrics: words that neither stand in quotes nor are a label, a function or a variable."""
    return set(re.findall(r"\bray_\w+", query))
