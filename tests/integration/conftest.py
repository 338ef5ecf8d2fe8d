"""Fixtures that several integration tests share: few data, and one sweep that ran undisturbed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import SETTINGS, Head, free_port, ray_folder, ray_start
from small_sweep import OFFLINE, TEST_CLASSES, TRAIN_CLASSES, Sweep, first_classes, sweep_of

from dfml.data.packing import pack
from tests import forked

# A sweep finds a cluster that runs on this machine; these are to start their own, or to be told of one.
os.environ.setdefault("RAY_ADDRESS", "local")
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
# Weights & Biases takes seconds of each sweep; two of them have it (test_wandb.py, test_interruption.py).
os.environ.setdefault("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def few_emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real emoji, few enough that an epoch takes seconds."""
    root = tmp_path_factory.mktemp("few-emoji")
    pack(first_classes("train", TRAIN_CLASSES, "train") + first_classes("test", TEST_CLASSES, "test"), root, "few")
    return root


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A Ray cluster of two cores for all tests that can share one; its workers are forked."""
    # It lives for minutes: what watches its files and processes for the dashboard does so rarely.
    seldom = {"REPORTER_UPDATE_INTERVAL_MS": "60000"}
    flags = ["--num-cpus=2", "--include-log-monitor=false"]
    with ray_folder() as folder, ray_start(folder, free_port(), *flags, **forked.workers(), **seldom) as head:
        yield head


@pytest.fixture(scope="session")
def finished(head: Head, few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """A sweep that ran to its end undisturbed, and what it printed."""
    sweep = sweep_of(few_emoji, tmp_path_factory.mktemp("finished"), "sweep")
    return sweep, sweep.run(environment={**head.named, **OFFLINE})
