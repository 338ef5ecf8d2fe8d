"""Checkpoints within an epoch in a trial's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dfml.data.datasets import SHIPPED
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_rows
from dfml.recipe import recipe_from
from dfml.train import Training
from orchestration.trials.checkpoints import MidEpochCheckpoint
from tests.dfml.conftest import TINY

RECIPE = {**TINY, "images_per_class": None}


def training() -> Training:
    """Return a training with 4 steps per epoch."""
    images = ShardedImages(SHIPPED["emoji"], "train")
    return Training(recipe_from(RECIPE), subset_of_rows(images, torch.arange(32).numpy()), None, torch.device("cpu"))


def folders(uri: Path) -> list[str]:
    return sorted(path.name for path in (uri / "mid_epoch").glob("*"))


def test_a_trial_goes_on_from_its_last_checkpoint_within_the_epoch(tmp_path: Path) -> None:
    first = training()
    mid_epoch = MidEpochCheckpoint(str(tmp_path))
    for _ in first.epochs(1, on_checkpoint=lambda: mid_epoch.keep(first), checkpoint_steps=1):
        pass
    assert folders(tmp_path) == ["0001_00000003", "latest.json"]  # older checkpoints are removed
    second = training()
    mid_epoch.resume(second)
    assert second.mid_epoch is not None
    assert (second.epoch, second.mid_epoch.step) == (0, 3)
    list(second.epochs(1))
    for name, tensor in first.objective.state_dict().items():
        torch.testing.assert_close(second.objective.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_of_an_epoch_that_has_ended_nothing_is_resumed(tmp_path: Path) -> None:
    first = training()
    mid_epoch = MidEpochCheckpoint(str(tmp_path))
    list(first.epochs(1, on_checkpoint=lambda: mid_epoch.keep(first), checkpoint_steps=2))
    assert json.loads((tmp_path / "mid_epoch" / "latest.json").read_text())["after_epoch"] == 0
    before = {name: tensor.clone() for name, tensor in first.objective.state_dict().items()}
    mid_epoch.resume(first)  # its first epoch has ended
    assert first.mid_epoch is None
    assert all(torch.equal(before[name], tensor) for name, tensor in first.objective.state_dict().items())
    mid_epoch.forget()
    assert folders(tmp_path) == []


def test_a_trial_without_any_begins_afresh(tmp_path: Path) -> None:
    run = training()
    MidEpochCheckpoint(str(tmp_path)).resume(run)
    assert run.mid_epoch is None
    assert run.epoch == 0


@pytest.mark.parametrize("files", [["model.safetensors"], []])
def test_what_was_being_written_when_all_ended_is_not_taken(tmp_path: Path, files: list[str]) -> None:
    """`latest.json`, which is written last, is missing."""
    (tmp_path / "mid_epoch" / "0001_00000001").mkdir(parents=True)
    for file in files:
        (tmp_path / "mid_epoch" / "0001_00000001" / file).write_bytes(b"half")
    run = training()
    MidEpochCheckpoint(str(tmp_path)).resume(run)
    assert run.mid_epoch is None
