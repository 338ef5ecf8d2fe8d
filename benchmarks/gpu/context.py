"""What all checks share: device, sizes, report, a folder, and the project's commands."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

import torch

from benchmarks.gpu.report import Report
from benchmarks.gpu.sizes import Sizes

ROOT = Path(__file__).resolve().parents[2]
# Seconds for which a timed check waits for the photographs to be ready.
QUIET_SECONDS = 90.0
LOGGED_CHARACTERS = 20_000


class Context:
    """What all checks share.

    Args:
        device: "cuda" or "cpu".
        sizes: of models, batches and data sets.
        report: gets the figures.
        work: a folder for data sets, models and runs.

    Attributes:
        cuda: whether the device is a GPU.
        cores: how many this process may use.
        deadline: when the check that runs must have ended, on the monotonic clock.
    """

    def __init__(self, device: str, sizes: Sizes, report: Report, work: Path) -> None:
        self.sizes = sizes
        self.report = report
        self.work = work
        self.cuda = device == "cuda"
        self.device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")
        self.cores = len(os.sched_getaffinity(0))
        self.deadline = math.inf
        self._photos: subprocess.Popen[bytes] | None = None

    def seconds_left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - time.monotonic()

    def command(self, *words: object) -> str:
        """Run Python with these arguments, and return its standard output.

        Raises:
            RuntimeError: the command failed.
            subprocess.TimeoutExpired: it didn't end before the deadline.
        """
        run = [sys.executable, *map(str, words)]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                run, cwd=ROOT, env=self._environment(), stdout=out, stderr=err, start_new_session=True
            )
            try:
                process.wait(timeout=max(5.0, self.seconds_left()))
            finally:
                # Its whole group, because loaders' processes may outlive it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                output, errors = _content(out), _content(err)
                self._log(run, output, errors)
        if process.returncode:
            raise RuntimeError(f"{' '.join(run[1:])} ended with {process.returncode}: {errors[-3000:]}")
        return output

    def start_photos(self) -> None:
        """Make the data set of photographs in a process of its own, beside the first checks."""
        sizes = self.sizes
        numbers = [sizes.photo_classes, sizes.photos_per_class, sizes.photo_width, sizes.photo_height]
        run = [sys.executable, "-m", "benchmarks.gpu.photos", str(self.work), *map(str, numbers)]
        with (self.report.file.parent / "photos.txt").open("w") as log:
            self._photos = subprocess.Popen(
                run, cwd=ROOT, env=self._environment(), stdout=log, stderr=subprocess.STDOUT
            )

    def packed_photos(self) -> Path:
        """Return the data set of photographs, once it is there.

        Raises:
            RuntimeError: the photographs couldn't be made.
        """
        if self._photos is not None and self._photos.wait(timeout=max(1.0, self.seconds_left())):
            raise RuntimeError("the photographs couldn't be made; see photos.txt")
        return self.work / "packed"

    def wait_for_quiet(self) -> None:
        """Wait until the photographs are made, which would slow down what is timed."""
        if self._photos is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._photos.wait(timeout=max(1.0, min(QUIET_SECONDS, self.seconds_left() - 5)))

    def _environment(self) -> dict[str, str]:
        """Return a command's environment: this checkout's code, and no GPU if none is used."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        hidden = {} if self.cuda else {"CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **hidden}

    def _log(self, run: list[str], output: str, errors: str) -> None:
        with (self.report.file.parent / "commands.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(run[1:])}\n{output[-LOGGED_CHARACTERS:]}{errors[-LOGGED_CHARACTERS:]}\n")


def _content(file: TextIO) -> str:
    file.seek(0)
    return file.read()
