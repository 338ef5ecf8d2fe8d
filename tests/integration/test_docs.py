"""docs/extending.md: each diff applies to this very code, and the command below it then succeeds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dfml.data.datasets import REPOSITORY
from dfml.data.manifest import read_manifest
from tests.benchmark_layouts import draw

pytestmark = [pytest.mark.integration, pytest.mark.views]

EXTENDING = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code that a diff may change."""
    for folder in ("dfml", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "datasets").symlink_to(REPOSITORY / "datasets")
    return tmp_path


def follow(title: str, code: Path) -> str:
    """Apply a section's diff, then run its command; returns what that printed."""
    section = EXTENDING.split(f"\n## {title}\n")[1].split("\n## ")[0]
    (diff,) = re.findall(r"```diff\n(.*?)```", section, flags=re.S)
    (command,) = re.findall(r"^    (python .*)$", section, flags=re.M)
    subprocess.run(["git", "apply", "--whitespace=error", "-"], cwd=code, input=diff, text=True, check=True)
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command.split()[1:]], cwd=code, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passed(printed: str) -> int:
    (found,) = re.findall(r"(\d+) passed", printed)
    return int(found)


def test_a_data_set(code: Path) -> None:
    lines = ["#Image CLASS-ID SPECIES BREED ID"]
    for breed, name in ((1, "Abyssinian"), (2, "american_bulldog"), (36, "wheaten_terrier"), (37, "yorkshire_terrier")):
        for number in (1, 2, 3):
            draw(code / "data" / "pets" / "images" / f"{name}_{number}.jpg", breed, number)
            lines.append(f"{name}_{number} {breed} 1 1")
    (code / "data" / "pets" / "annotations").mkdir()
    (code / "data" / "pets" / "annotations" / "list.txt").write_text("\n".join(lines) + "\n")
    follow("A data set", code)
    manifest = read_manifest(str(code / "packed" / "pets"))
    assert {name: (split.rows, split.classes) for name, split in manifest.splits.items()} == {
        "train": (6, 2),
        "test": (6, 2),
    }


def test_a_loss(code: Path, few_emoji: Path) -> None:
    (code / "my_dataset").symlink_to(few_emoji)
    printed = follow("A loss", code)
    assert "epoch 2/2" in printed
    assert (code / "runs" / "circle" / "best" / "model.safetensors").is_file()


def test_a_schedule(code: Path) -> None:
    assert passed(follow("A schedule", code)) == 10  # six against torch's own, four kinds


def test_a_backbone(code: Path) -> None:
    assert passed(follow("A backbone", code)) >= 18


def test_what_the_documents_link_to_is_there() -> None:
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert (page.parent / link).exists(), (page.name, link)
        for path in re.findall(r"`((?:dfml|orchestration|benchmarks|search_spaces|tests|docs)/[\w./]*\w)`", text):
            assert (REPOSITORY / path).exists(), (page.name, path)
