"""The README's commands run unchanged, for a newcomer with their own images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_sweep import Sweep

from dfml.data.datasets import REPOSITORY, SHIPPED
from dfml.data.streaming.sharded_images import ShardedImages
from tests import forked

pytestmark = pytest.mark.integration

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"## {title}\n")[1], flags=re.M)[0]


def commands(title: str) -> list[str]:
    return re.findall(r"^    (\S.*)$", section(title), flags=re.M)


def test_the_quick_starts_commands_are_targets_of_the_makefile() -> None:
    targets = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    found = [command.split() for command in commands("Quick start") if command.startswith("make")]
    assert [words[1] for words in found] == ["demo", "test"]
    for words in found:
        assert f"\n{words[1]}: " in targets


def test_five_lines_embed_an_image(finished: tuple[Sweep, str], tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", section("Use the model"), flags=re.S)
    assert len([line for line in snippet.splitlines() if line]) <= 5
    Image.new("RGB", (80, 50), "teal").save(tmp_path / "image.png")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "emoji").symlink_to(finished[0].folder)
    check = "print(tuple(embedding.shape), round(float(embedding.norm()), 4))"
    done = forked.run([sys.executable, "-c", snippet + check], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.strip() == "(1, 96) 1.0"


@pytest.mark.views
def test_own_images_become_a_model(tmp_path: Path) -> None:
    """Folders of PNG and JPEG files become shards and a sweep with the README's exact commands."""
    images = ShardedImages(SHIPPED["emoji"], "train")
    for row in range(240):
        folder = tmp_path / "my_images" / images.class_names[images.labels[row]]
        folder.mkdir(parents=True, exist_ok=True)
        images.image(row).save(folder / f"{row}.{'png' if row % 2 else 'jpg'}")
    images.image(240).save(tmp_path / "query.jpg")
    for name in ("run_sweep.py", "search_spaces"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = {}
    for command in commands("Your own images"):
        done = subprocess.run(
            command.split(),
            cwd=tmp_path,
            env={**os.environ, **forked.workers(), "PATH": path, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said[" ".join(command.split()[:3])] = done.stdout
    assert list(said) == [
        "python -m dfml.data",
        "python run_sweep.py --dataset",
        "python -m dfml.embed",
        "python -m dfml.search",
    ]
    assert (tmp_path / "sweeps" / "mine" / "best" / "model.safetensors").is_file()
    assert "Test classes" in said["python run_sweep.py --dataset"]
    assert (tmp_path / "sweeps" / "mine" / "report" / "index.html").is_file()
    index = pq.read_table(tmp_path / "embeddings.parquet")
    assert index.num_rows == 240
    nearest = re.findall(r"│ +\d+ +│ +([\d.]+) +│ (.*?) +│", said["python -m dfml.search"])
    assert len(nearest) == 10
    assert {path for _, path in nearest} <= set(index["path"].to_pylist())
    with Image.open(tmp_path / "search.png") as picture:
        assert picture.width > 1000


def test_the_models_command_line_exports_it(finished: tuple[Sweep, str], tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine").symlink_to(finished[0].folder)
    (command,) = (command for command in commands("Use the model"))
    arguments = command.split()[1:]
    done = forked.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exported to" in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (embeddings,) = session.run(None, {"images": np.zeros((3, 3, 64, 64), np.float32)})
    assert embeddings.shape == (3, 96)
