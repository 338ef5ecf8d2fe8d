"""A real sweep of classifiers on a miniature in ImageNet's layout, from the folder to the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ray_head import Head
from small_sweep import Sweep

import dfml
from dfml.data.streaming.sharded_images import ShardedImages
from tests import forked
from tests.dfml.test_classification import imagenet

pytestmark = pytest.mark.integration

SPACE = {
    "recipe": {
        "backbone": "test_resnet",
        "weights": "random",
        "loss": "cross_entropy",
        "image_size": 32,
        "batch_size": 6,
        "epochs": 2,
        "warm_epochs": 1,
    },
    "search": {
        "num_sub_blocks": {"choice": [2, 4]},
        "blocks": {"choice": ["all", "1-3"]},
        "lr": {"low": 1e-4, "high": 1e-3, "log": True},
    },
}


def test_from_a_folder_to_a_classifier(head: Head, tmp_path: Path) -> None:
    imagenet(tmp_path / "raw")
    packing = [sys.executable, "-m", "dfml.data", "pack", "--layout", "imagenet", "--root", "raw", "--out", "packed"]
    done = forked.run(packing, cwd=tmp_path, capture_output=True, check=True)
    assert "search_spaces/imagenet.yaml" in done.stdout
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    arguments = (
        f"--dataset mini --data {tmp_path}/packed --search-space {tmp_path}/space.yaml --storage {tmp_path} "
        "--name sweep --trials 1"
    )
    sweep = Sweep(arguments.split(), tmp_path, "sweep")
    printed = sweep.run(environment=head.named)
    assert "validation top-1" in printed
    assert "R@1" not in printed
    best = sweep.folder / "best"
    reported = json.loads((best / "config.json").read_text())["test"]
    assert set(reported) == {"top_1", "top_5"}
    test = ShardedImages(tmp_path / "packed", "test")
    model = dfml.load(best)
    named = [model.class_names[i] for i in model.classify([test.image(i) for i in range(len(test))]).argmax(1)]
    right = [name == test.class_names[label] for name, label in zip(named, test.labels, strict=True)]
    assert reported["top_1"] == pytest.approx(float(np.mean(right)), abs=1e-6)
    assert "top-1" in (best / "README.md").read_text()
    assert not list((sweep.folder / "report").glob("retrievals*"))
    assert "top-1" in (sweep.folder / "report" / "index.html").read_text()
