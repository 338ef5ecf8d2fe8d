"""The folder of a run: its contents, resuming after a kill at any moment, refusing other runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dfml
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.errors import InvalidInput
from dfml.recipe import Recipe
from dfml.train import Training
from dfml.train.run_folder import RunFolder


@pytest.fixture
def training(tiny_recipe: Recipe, train_images: ShardedImages) -> Training:
    train, validation = (subset_of_classes(train_images, classes) for classes in (np.arange(5), np.arange(5, 7)))
    return Training(tiny_recipe, train, validation, torch.device("cpu"))


def run(recipe: Recipe, **facts: Any) -> dict[str, Any]:
    return {"recipe": recipe.model_dump(mode="json"), "dataset": "drawn", **facts}


def logged(folder: RunFolder) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder.root / "epochs.jsonl").read_text().splitlines()]


def test_keeps_every_epochs_figures_the_last_state_and_the_best_model(
    training: Training, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "new" / "run", run(tiny_recipe))
    assert folder.last() is None
    for _ in training.epochs():
        folder.keep(training)
    assert logged(folder) == [1, 2, 3]
    assert sorted(path.name for path in folder.root.iterdir()) == ["best", "epoch_0003", "epochs.jsonl", "run.json"]
    assert folder.last() == folder.root / "epoch_0003"
    assert folder.best_metrics()["epoch"] == training.metrics["best_epoch"]
    folder.add_to_best({"test": {"recall_at_1": 0.5}})
    config = json.loads((folder.best / "config.json").read_text())
    assert (config["test"], config["dataset"]) == ({"recall_at_1": 0.5}, "drawn")
    assert config["trained_in"] == "float32"
    assert dfml.load(folder.best).recipe == tiny_recipe


def test_keeps_how_far_an_epoch_is_until_it_has_ended(training: Training, tiny_recipe: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", run(tiny_recipe))
    within = []

    def keep() -> None:
        folder.save_mid_epoch(training)
        within.append([path.name for path in folder.root.glob("epoch_*")])

    for _ in training.epochs(2, on_checkpoint=keep, checkpoint_steps=1):
        folder.keep(training)
    assert within[0] == ["epoch_0000_step_00000001"]
    assert within[-1][0].startswith("epoch_0001_step_")
    assert [path.name for path in folder.root.glob("epoch_*")] == ["epoch_0002"]


class Killed(BaseException):
    """A stand-in for SIGKILL: nothing after it runs."""


@pytest.mark.integration
@pytest.mark.parametrize("moment", range(12))
def test_after_a_kill_at_any_rename_the_run_goes_on_to_the_same_folder(
    training: Training, tiny_recipe: Recipe, tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run", run(tiny_recipe))
    renames, rename = 0, Path.rename

    def rename_or_die(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == moment + 1:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_or_die)
    try:
        for _ in training.epochs():
            folder.keep(training)
    except Killed:
        again = RunFolder(folder.root, run(tiny_recipe))
        resumed = Training(tiny_recipe, training.train, training.validation, torch.device("cpu"))
        if last := again.last():
            resumed.load(last)
        assert resumed.epoch >= training.epoch - 1
        for _ in resumed.epochs():
            again.keep(resumed)
        training = resumed
    assert logged(folder) == [1, 2, 3]
    assert folder.best_metrics()["epoch"] == training.metrics["best_epoch"]
    assert [name for name in os.listdir(folder.root) if name.endswith(".partial")] == []


def test_another_run_is_refused_and_the_difference_named(
    training: Training, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path, run(tiny_recipe))
    next(training.epochs())
    folder.keep(training)
    RunFolder(tmp_path, run(tiny_recipe))  # the same run resumes
    with pytest.raises(InvalidInput, match=r"lr = 0\.001, now it is 0\.5; .*another --out"):
        RunFolder(tmp_path, run(tiny_recipe.model_copy(update={"lr": 0.5})))
    with pytest.raises(InvalidInput, match="dataset = 'drawn', now it is 'cub'"):
        RunFolder(tmp_path, {**run(tiny_recipe), "dataset": "cub"})
