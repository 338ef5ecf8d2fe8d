"""The checks of benchmarks/gpu/ on small models without a GPU: all code that needs none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from dfml.data.datasets import REPOSITORY
from tests import forked

pytestmark = [pytest.mark.integration, pytest.mark.views]

# Each takes half a minute or more: compiling for CPUs, two exports, and a run under torchrun. Other
# tests export, and use torchrun.
TOO_SLOW = ("compile", "export", "train_emoji")


def test_every_check_runs_on_the_cpu_and_meets_its_bars(tmp_path: Path) -> None:
    # Here, because this module is imported also if none of its tests runs.
    from benchmarks.gpu.order import CHECKS

    flags = ["--device", "cpu", "--tiny", "--skip", *TOO_SLOW, "--out", str(tmp_path)]
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu" / "check.py"), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = forked.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSED" not in done.stdout
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert [line for line in content["lines"] if "traceback" in line] == []
    # A check that didn't run says why.
    skipped = {line["check"] for line in content["lines"] if line["name"] == f"{line['check']}.all" and line["why"]}
    assert set(content["done"]) | skipped == set(CHECKS) - set(TOO_SLOW)
