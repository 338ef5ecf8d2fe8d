"""Deterministic algorithms: torch's switches, and a run that needs no other algorithm."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.determinism import make_deterministic
from dfml.recipe import recipe_from
from dfml.train import Training
from tests.dfml.conftest import TINY
from tests.epoch_metrics import flat

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    os.environ.pop(VARIABLE, None)
    torch.use_deterministic_algorithms(False)


def test_an_operation_without_a_deterministic_algorithm_is_an_error() -> None:
    torch.backends.cudnn.benchmark = True
    make_deterministic()
    assert os.environ[VARIABLE] == ":4096:8"
    assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_users_workspace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ":16:8")
    make_deterministic()
    assert os.environ[VARIABLE] == ":16:8"


def test_training_takes_deterministic_algorithms_and_gives_the_same_figures(train_images: ShardedImages) -> None:
    train, validation = (subset_of_classes(train_images, classes) for classes in (np.arange(5), np.arange(5, 7)))
    recipe = recipe_from({**TINY, "backbone": "test_vit", "epochs": 2})

    def figures() -> list[dict[str, float]]:
        epochs = Training(recipe, train, validation, torch.device("cpu")).epochs()
        return [{name: v for name, v in flat(e).items() if "second" not in name and name != "began"} for e in epochs]

    expected = figures()
    make_deterministic()
    assert figures() == expected
