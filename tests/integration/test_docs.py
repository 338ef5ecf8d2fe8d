"""Tests of docs/extending.md: each diff applies to this code, and the command below it succeeds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dfml.data.datasets import REPOSITORY
from dfml.data.format.manifest import read_manifest
from tests.benchmark_layouts import draw

pytestmark = [pytest.mark.integration, pytest.mark.views]

EXTENDING = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")


@dataclass
class Followed:
    """An example that is being followed: its copy of the code, and its command's process."""

    code: Path
    process: subprocess.Popen[str]

    def end(self) -> str:
        """Wait until the command has ended, and return its output."""
        printed, errors = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, printed + errors
        return printed


def follow(title: str, code: Path) -> Followed:
    """Apply a section's diff to the copy `code`, then start its command."""
    section = EXTENDING.split(f"\n## {title}\n")[1].split("\n## ")[0]
    (diff,) = re.findall(r"```diff\n(.*?)```", section, flags=re.S)
    (command,) = re.findall(r"^    (python .*)$", section, flags=re.M)
    apply = ["git", "apply", "--whitespace=error", "-"]
    done = subprocess.run(apply, cwd=code, input=diff, capture_output=True, text=True)
    assert done.returncode == 0, f"{title}: {done.stderr}"
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *command.split()[1:]]
    return Followed(code, subprocess.Popen(command, cwd=code, env=environment, text=True, **pipes))


def copied(code: Path) -> Path:
    """Copy the code that diffs change into a folder, and return the folder."""
    for folder in ("dfml", "tests"):
        shutil.copytree(REPOSITORY / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", code)
    (code / "datasets").symlink_to(REPOSITORY / "datasets")
    return code


def draw_pets(root: Path) -> None:
    """Write images and their list in the layout of the Oxford-IIIT Pets."""
    lines = ["#Image CLASS-ID SPECIES BREED ID"]
    for breed, name in ((1, "Abyssinian"), (2, "american_bulldog"), (36, "wheaten_terrier"), (37, "yorkshire_terrier")):
        for number in (1, 2, 3):
            draw(root / "images" / f"{name}_{number}.jpg", breed, number)
            lines.append(f"{name}_{number} {breed} 1 1")
    (root / "annotations").mkdir()
    (root / "annotations" / "list.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def examples(few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Followed]]:
    """Start all examples at once, because each uses one core only; the longest begin first.

    Yields:
        The examples by the titles of their sections.
    """
    started = {}
    try:
        for title in ("A backbone", "A loss", "A schedule", "A data set"):
            code = copied(tmp_path_factory.mktemp("code"))
            if title == "A data set":
                draw_pets(code / "data" / "pets")
            if title == "A loss":
                (code / "my_dataset").symlink_to(few_emoji)
            started[title] = follow(title, code)
        yield started
    finally:
        for example in started.values():
            example.process.kill()


def passed(printed: str) -> int:
    (found,) = re.findall(r"(\d+) passed", printed)
    return int(found)


def test_a_data_set(examples: dict[str, Followed]) -> None:
    example = examples["A data set"]
    example.end()
    manifest = read_manifest(str(example.code / "data" / "packed" / "pets"))
    assert {name: (split.rows, split.classes) for name, split in manifest.splits.items()} == {
        "train": (6, 2),
        "test": (6, 2),
    }


def test_a_loss(examples: dict[str, Followed]) -> None:
    example = examples["A loss"]
    assert "epoch 2/2" in example.end()
    assert (example.code / "runs" / "circle" / "best" / "model.safetensors").is_file()


def test_a_schedule(examples: dict[str, Followed]) -> None:
    # Six comparisons with torch's schedules, and four kinds.
    assert passed(examples["A schedule"].end()) == 10


def test_a_backbone(examples: dict[str, Followed]) -> None:
    assert passed(examples["A backbone"].end()) >= 18


def test_what_the_documents_link_to_is_there() -> None:
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert (page.parent / link).exists(), (page.name, link)
        for path in re.findall(r"`((?:dfml|orchestration|benchmarks|search_spaces|tests|docs)/[\w./]*\w)`", text):
            assert (REPOSITORY / path).exists(), (page.name, path)
