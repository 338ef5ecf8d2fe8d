"""The Grafana dashboard queries all metrics, and only existing ones."""

from __future__ import annotations

import re
from itertools import combinations

from grafana import DASHBOARD, PANELS, metrics_in, queries
from ray.dashboard.modules.metrics.grafana_dashboard_factory import generate_default_grafana_dashboard

from orchestration.callbacks.prometheus import LIVE, REACHED, RUNNING, TRIAL

OURS = {f"ray_dfml_{name}" for name in [*REACHED, *RUNNING, *TRIAL, *LIVE, "router_load", "trials"]}


def test_panels_ask_for_all_our_metrics_and_otherwise_for_those_that_rays_own_dashboard_shows() -> None:
    asked = set().union(*(metrics_in(query) for panel in PANELS for query in queries(panel)))
    assert asked >= OURS
    rays, _ = generate_default_grafana_dashboard()
    assert asked - OURS <= metrics_in(rays)
    assert "ray_node_cpu_utilization" in asked


def test_variables_are_defined_and_ask_for_our_metrics() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", str(PANELS)))
    assert used == set(variables)
    assert all(metrics_in(str(variables[name]["query"])) <= OURS for name in ("sweep", "trial"))


def test_panels_have_numbers_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    boxes = [panel["gridPos"] for panel in panels]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    for a, b in combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
