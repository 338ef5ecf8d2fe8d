"""A small data set cut from the emoji, and `run_sweep.py` as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dfml.data.datasets import REPOSITORY, SHIPPED
from dfml.data.format.shards import ImageRow
from dfml.data.streaming.sharded_images import ShardedImages
from tests import forked

TRAIN_CLASSES, TEST_CLASSES = 40, 16
# It has the right form and belongs to nobody.
WANDB_KEY = "0123456789abcdef" * 2 + "01234567"
OFFLINE = {"WANDB_MODE": "offline", "WANDB_API_KEY": WANDB_KEY}


def first_classes(split: str, count: int, name: str) -> list[ImageRow]:
    images = ShardedImages(SHIPPED["emoji"], split)
    kept = sorted(set(images.labels.tolist()))[:count]
    return [
        ImageRow(images.encoded(i), images.class_names[label], images.paths[i], name)
        for i, label in enumerate(images.labels.tolist())
        if label in kept
    ]


@dataclass
class Sweep:
    """A sweep's command and its folder."""

    arguments: list[str]
    storage: Path | str
    name: str

    @property
    def folder(self) -> Path:
        return Path(self.storage) / self.name

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(REPOSITORY / "run_sweep.py"), *self.arguments]

    def start(self, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the sweep in its own process group, so that a test can send Ctrl-C to all of it.

        The process is forked, and so are the workers of a Ray that it starts (`tests.forked`).
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return forked.Popen(self.command, env={**os.environ, **forked.workers(), **(environment or {})}, **pipes)

    def run(self, timeout: float = 600, environment: dict[str, str] | None = None, code: int = 0) -> str:
        """Run to the end, forked as by `start`, and check the exit code.

        Returns:
            Its output; if `code` isn't 0, its standard error.
        """
        env = {**os.environ, **forked.workers(), **(environment or {})}
        done = forked.run(self.command, capture_output=True, timeout=timeout, env=env)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def added(self, *arguments: str) -> Sweep:
        """Return the same sweep with further arguments."""
        return Sweep([*self.arguments, *arguments], self.storage, self.name)


def sweep_of(data: Path | str, storage: Path | str, name: str, trials: int = 3) -> Sweep:
    """Return a sweep of two DDP workers per trial and three epochs of a few steps each."""
    space = Path(__file__).with_name("tiny.yaml")
    arguments = f"--dataset emoji --data {data} --storage {storage} --name {name} --trials {trials} --seed 5"
    return Sweep([*arguments.split(), "--search-space", str(space), "--set", "test_size=64"], storage, name)
