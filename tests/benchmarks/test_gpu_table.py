"""The table of GPU results: as the files of benchmarks/results/gpu/ have them."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.gpu.table import README, table, with_table


def test_the_readme_has_the_present_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_table(text) == text


def test_a_column_per_card_with_empty_cells_for_what_was_not_measured(tmp_path: Path) -> None:
    assert table(tmp_path) == "No card has run the checks yet.\n"
    lines = [{"name": "steps_small.ViT-S bf16, exact × dense", "value": 1.87654}]
    (tmp_path / "card.json").write_text(json.dumps({"lines": lines}), encoding="utf-8")
    head, _, first, second, *_ = table(tmp_path).splitlines()
    assert head == "| | bar | card |"
    assert first == "| ViT-S in bf16, exact step × dense | 2 | 1.88 |"
    assert second.endswith("|  |  |")
