"""Write the table of GPU results in README.md from benchmarks/results/gpu/*.json.

    python benchmarks/gpu/table.py

Each file is what `check.py` measured on one card. Rows whose figure a run hasn't are left empty.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.bars import BARS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"
# A figure's heading, its name in the file, and its bar.
ROWS = (
    ("ViT-S in bf16, exact step × dense", "steps_small.ViT-S bf16, exact × dense", "exact × dense"),
    ("the same, compiled", "compile.ViT-S bf16, exact, compiled × dense", None),
    ("its peak memory × dense", "steps_small.ViT-S bf16, exact memory × dense", "exact memory × dense"),
    ("its waits for the GPU", "syncs.ViT-S bf16, exact, waits a step", "syncs"),
    ("share of it in which the GPU computes", "steps_small.ViT-S bf16, exact, GPU computes, share of the step", "busy"),
    ("ViT-B in bf16, routed inference × dense", "inference.ViT-B bf16, routed × dense", "ViT-B bf16, routed × dense"),
    ("R@K, RP and MAP@R of 60,502 embeddings, s", "metrics.60,502 × 384 on the cuda", "metrics"),
    ("`dfml.train` on photographs, images/s", "train_photos.images/s", None),
    ("its wait for data, share of training", "train_photos.waiting for data, share of training", "data wait"),
)


def table(results: Path = RESULTS) -> str:
    """Return the table in Markdown; a sentence if there are no results."""
    cards = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))["lines"] for file in sorted(results.glob("*.json"))
    }
    if not cards:
        return "No card has run the checks yet.\n"
    lines = [f"| | bar | {' | '.join(cards)} |", f"| --- | ---: |{' ---: |' * len(cards)}"]
    for heading, name, bar in ROWS:
        found = [next((line["value"] for line in lines if line["name"] == name), None) for lines in cards.values()]
        cells = ["" if value is None else f"{value:.3g}" for value in found]
        lines.append(f"| {heading} | {f'{BARS[bar]:g}' if bar else ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the README's text with the present table."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
