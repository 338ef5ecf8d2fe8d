"""The parts of the ranks in scoring on the test classes; `test_ranks` tests their scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfml.data.packing.pack import pack
from dfml.data.streaming.evaluation_set import images_for_test
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.recipe import recipe_from
from dfml.train import Training
from orchestration.job import SweepSettings, WinnerJob
from orchestration.trials import test_score
from orchestration.trials.outcome import evaluations
from orchestration.trials.retrievals import GROUPS
from tests.dfml.conftest import TINY
from tests.packed import many


def test_all_ranks_score_and_the_first_chooses_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack([*many(4, 2), *many(4, 2, "test")], tmp_path / "packed", "drawn")
    train = subset_of_classes(ShardedImages(tmp_path / "packed", "train"))
    training = Training(recipe_from(TINY), train, None, torch.device("cpu"))
    test = images_for_test(str(tmp_path / "packed"), "retrieval")
    job = WinnerJob(SweepSettings(str(tmp_path / "sweep")), 0, {}, training.recipe, 1, winner=3, first=True)
    outcomes = []
    for number in (0, 1):
        monkeypatch.setattr(test_score, "rank", lambda number=number: number)
        torch.manual_seed(0)  # seeds the baseline's weights
        outcomes.append(test_score.score_on_test(training, test, job))
    first, second = outcomes
    assert sum(row["drawn"] == "random" for row in first.retrievals) == GROUPS["random"].shown
    assert second == first.model_copy(update={"retrievals": []})
    assert set(second.baselines) == {"frozen pretrained backbone", "raw pixels"}
    assert evaluations(str(tmp_path / "sweep"), ["winner"]) == 1
