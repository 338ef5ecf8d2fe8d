"""Fixtures of several integration tests: a small data set, a cluster, and an undisturbed sweep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import SETTINGS, Head, free_port, ray_folder, ray_start
from small_sweep import OFFLINE, TEST_CLASSES, TRAIN_CLASSES, Sweep, first_classes, sweep_of

from dfml.data.packing.pack import pack
from tests import forked

# A sweep would find a cluster that runs on this machine; tests start or name their own.
os.environ.setdefault("RAY_ADDRESS", "local")
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
# Weights & Biases takes seconds per sweep; only test_wandb.py and test_interruption.py need it.
os.environ.setdefault("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def few_emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack so few real emoji that an epoch takes seconds."""
    root = tmp_path_factory.mktemp("few-emoji")
    pack(first_classes("train", TRAIN_CLASSES, "train") + first_classes("test", TEST_CLASSES, "test"), root, "few")
    return root


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """Start a Ray cluster of two cores for all tests that can share one; its workers are forked."""
    # It runs for minutes, so the dashboard's reporter needs to sample rarely.
    seldom = {"REPORTER_UPDATE_INTERVAL_MS": "60000"}
    flags = ["--num-cpus=2", "--include-log-monitor=false"]
    with ray_folder() as folder, ray_start(folder, free_port(), *flags, **forked.workers(), **seldom) as head:
        yield head


@pytest.fixture(scope="session")
def finished(head: Head, few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """Run a sweep to its end undisturbed; return it with its output."""
    sweep = sweep_of(few_emoji, tmp_path_factory.mktemp("finished"), "sweep")
    return sweep, sweep.run(environment={**head.named, **OFFLINE})
