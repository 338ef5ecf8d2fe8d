"""One real sweep of two-worker trials: its files, its output, and whether its numbers are right."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray_head import Head
from safetensors.torch import load_file
from small_sweep import TEST_CLASSES, TRAIN_CLASSES, Sweep, sweep_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dfml
from dfml.data.streaming.sharded_images import ShardedImages

pytestmark = pytest.mark.integration


def test_the_folder_holds_what_the_layout_promises(finished: tuple[Sweep, str]) -> None:
    folder = finished[0].folder
    assert json.loads((folder / "sweep.json").read_text())["plan"]["trials"] == 3
    assert sorted(path.name for path in (folder / "trials").iterdir()) == ["000", "001", "002", "winner"]
    assert {path.name for path in (folder / "best").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert load_file(folder / "best" / "model.safetensors")
    with Image.open(folder / "report" / "retrievals_random.png") as picture:
        assert min(picture.size) > 300
        # An empty frame would have few colors.
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 1000


def test_each_trial_keeps_its_best_and_last_checkpoint_only(finished: tuple[Sweep, str]) -> None:
    for number in range(3):
        kept = list((finished[0].folder / "trials" / f"{number:03d}").glob("checkpoint_*/"))
        assert 1 <= len(kept) <= 2


def test_the_console_tells_every_epoch_trial_and_score(finished: tuple[Sweep, str]) -> None:
    folder, printed = finished[0].folder, finished[1]
    for number in range(3):
        record = json.loads((folder / "trials" / f"{number:03d}" / "record.json").read_text())
        for metrics in record["epochs"]:
            line = f"trial {number}  epoch {metrics['epoch']:.0f}/3"
            assert line in printed
    for name in ("winner", "frozen pretrained backbone", "raw pixels"):
        assert name in printed
    assert str(folder / "best") in printed


def test_tensorboard_files_hold_every_epoch(finished: tuple[Sweep, str]) -> None:
    for number in range(3):
        record = json.loads((finished[0].folder / "trials" / f"{number:03d}" / "record.json").read_text())
        (folder,) = (finished[0].folder / "tune").glob(f"{number:03d}-*/")
        events = EventAccumulator(str(folder))
        events.Reload()
        for name in ("epoch", "loss", "recall_at_1", "images_per_second"):
            told = [scalar.value for scalar in events.Scalars(f"ray/tune/metrics/{name}")]
            assert told == pytest.approx([metrics[name] for metrics in record["epochs"]])


def test_the_score_is_that_of_the_stored_model(finished: tuple[Sweep, str], few_emoji: Path) -> None:
    """R@1 equals the one computed from best/ and the test images by a full matrix of cosines."""
    best = finished[0].folder / "best"
    reported = json.loads((best / "config.json").read_text())["test"]["recall_at_1"]
    images = ShardedImages(few_emoji, "test")
    model = dfml.load(best)
    embeddings = model.embed([images.image(row) for row in range(len(images))]).numpy()
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -np.inf)
    recall = np.mean(images.labels[cosine.argmax(axis=1)] == images.labels)
    assert recall == pytest.approx(reported, abs=1e-6)


def test_the_test_classes_were_looked_at_once_and_never_trained_on(finished: tuple[Sweep, str]) -> None:
    folder = finished[0].folder
    config = json.loads((folder / "best" / "config.json").read_text())
    assert config["test_evaluations"] == 1
    assert config["protocol"] == "holdout"
    trial = next((folder / "trials" / "000").glob("checkpoint_*/model.safetensors"))
    assert load_file(trial)["metric_loss.proxies"].shape[0] == TRAIN_CLASSES * 4 // 5
    winner = next((folder / "trials" / "winner").glob("checkpoint_*/model.safetensors"))
    assert load_file(winner)["metric_loss.proxies"].shape[0] == TRAIN_CLASSES
    assert config["splits"]["test"]["classes"] == TEST_CLASSES


def test_routers_and_proxies_were_trained(finished: tuple[Sweep, str]) -> None:
    torch.manual_seed(json.loads((finished[0].folder / "best" / "config.json").read_text())["seed"])
    model = dfml.load(finished[0].folder / "best")
    from dfml.embedding_model import build_model

    torch.manual_seed(model.recipe.seed)
    start = build_model(model.recipe).state_dict()
    routers = [name for name in start if "router" in name]
    assert routers
    trained = model.state_dict()
    assert all(not torch.equal(trained[name], start[name]) for name in routers)


def test_the_same_command_again_shows_the_results_without_running(finished: tuple[Sweep, str]) -> None:
    began = time.monotonic()
    printed = finished[0].run()
    assert time.monotonic() - began < 60
    assert "has ended already" in printed
    tables = re.search(r"Trials \(.*raw pixels.*?$", finished[1], flags=re.S | re.M)
    assert tables is not None
    assert tables[0] in printed


def test_the_same_name_with_another_plan_is_refused(finished: tuple[Sweep, str]) -> None:
    before = (finished[0].folder / "sweep.json").read_bytes()
    said = finished[0].added("--set", "alpha=16").run(code=2)
    assert "alpha" in said
    assert "--name" in said
    assert "Traceback" not in said
    assert (finished[0].folder / "sweep.json").read_bytes() == before


def test_more_workers_than_the_cluster_has_is_said_and_leaves_nothing(
    head: Head, few_emoji: Path, tmp_path: Path
) -> None:
    sweep = sweep_of(few_emoji, tmp_path, "sweep")
    said = sweep.added("--workers-per-trial", "3").run(code=2, environment=head.named)
    assert "--workers-per-trial 3 is more" in said
    assert "CPU cores" in said
    assert "Traceback" not in said
    assert not sweep.folder.exists()
