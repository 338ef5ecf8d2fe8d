"""A sweep with the published protocol and two seeds on a miniature of In-Shop.

The tests compute its numbers again from its files. In-Shop has queries and a gallery.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from ray_head import Head
from safetensors.torch import load_file
from small_sweep import Sweep

import dfml
from dfml.baselines import raw_pixels
from dfml.data.packing.pack import pack
from dfml.data.packing.readers import read_benchmark_set
from dfml.data.streaming.sharded_images import ShardedImages
from tests.benchmark_layouts import inshop

pytestmark = pytest.mark.integration

TRIALS, EPOCHS, SEED = 2, 2, 3
# Numbers of classes.
TRAIN, TEST = 12, 14
SPACE = {
    "recipe": {
        "backbone": "test_resnet",
        "weights": "random",
        "num_sub_blocks": 2,
        "image_size": 32,
        "batch_size": 6,
        "warm_epochs": 1,
    },
    "search": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    # The second rate is too high for a good model.
    "first": [{"lr": 2e-4}, {"lr": 7e-3}],
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack images in In-Shop's layout.

    The images of a class have little in common, so that no score is perfect.
    """
    root = tmp_path_factory.mktemp("inshop")
    inshop(root, TRAIN, TEST)
    rng = np.random.default_rng(0)
    for file in sorted(root.rglob("*.jpg")):
        of_class = np.random.default_rng(int(file.parent.name.split("_")[1])).integers(0, 256, (4, 4, 3))
        colors = 0.35 * of_class + 0.65 * rng.integers(0, 256, (4, 4, 3))
        Image.fromarray(colors.astype(np.uint8).repeat(16, 0).repeat(16, 1)).save(file)
    pack(read_benchmark_set("inshop", root), root / "packed", "Inshop")
    return root / "packed"


@pytest.fixture(scope="module")
def published(head: Head, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """Run the sweep with two concurrent trials; return it with its output."""
    root = tmp_path_factory.mktemp("protocols")
    (root / "space.yaml").write_text(yaml.safe_dump(SPACE))
    arguments = (
        f"--dataset inshop --data {packed} --search-space {root}/space.yaml --storage {root} --name sweep "
        f"--trials {TRIALS} --max-epochs {EPOCHS} --seed {SEED} --workers-per-trial 1 --concurrent-trials 2 "
        "--protocol paper --reproductions 2"
    )
    sweep = Sweep(arguments.split(), root, "sweep")
    return sweep, sweep.run(environment=head.named)


def read(sweep: Sweep, *parts: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sweep.folder.joinpath(*parts).read_text())
    return found


def recall_at_1(model: dfml.EmbeddingModel, data: Path) -> float:
    """Compute R@1 from the images by a full matrix of cosines in numpy."""
    query, gallery = (ShardedImages(data, split) for split in ("query", "gallery"))
    a, b = (model.embed([images.image(row) for row in range(len(images))]).numpy() for images in (query, gallery))
    return float(np.mean(gallery.labels[(a @ b.T).argmax(axis=1)] == query.labels))


def test_best_is_the_winning_trials_own_best_epoch(published: tuple[Sweep, str], packed: Path) -> None:
    sweep = published[0]
    config, results = read(sweep, "best", "config.json"), read(sweep, "report", "results.json")
    trials = [read(sweep, "trials", f"{number:03d}", "record.json") for number in range(TRIALS)]
    all_scores = [epoch["recall_at_1"] for trial in trials for epoch in trial["epochs"]]
    assert len(set(all_scores)) > 1
    highest = max(all_scores)
    winner = trials[config["trial"]]
    assert results["winner"] == config["trial"]
    assert winner["epochs"][config["epochs"] - 1]["recall_at_1"] == highest
    assert config["test"]["recall_at_1"] == pytest.approx(highest, abs=1e-6)
    assert recall_at_1(dfml.load(sweep.folder / "best"), packed) == pytest.approx(highest, abs=1e-6)
    # Its weights equal a checkpoint of that trial, which has a proxy for each training class.
    stored = load_file(sweep.folder / "best" / "model.safetensors")
    folder = sweep.folder / "trials" / f"{config['trial']:03d}"
    kept = [load_file(file) for file in folder.glob("checkpoint_*/model.safetensors")]
    assert any(all(bool((each[f"model.{name}"] == value).all()) for name, value in stored.items()) for each in kept)
    assert all(each["metric_loss.proxies"].shape[0] == TRAIN for each in kept)


def test_every_look_at_the_test_classes_is_counted(published: tuple[Sweep, str]) -> None:
    sweep = published[0]
    looks = {
        path.parent.name: json.loads(path.read_text()) for path in sweep.folder.glob("trials/*/test_evaluations.json")
    }
    # A trial is evaluated after each epoch. The winner is evaluated once with its own seed, and
    # after each epoch and once more with the next seed.
    assert looks == {"000": EPOCHS, "001": EPOCHS, "winner": 1, "winner-1": EPOCHS + 1}
    total = TRIALS * EPOCHS + 1 + EPOCHS + 1
    assert read(sweep, "best", "config.json")["test_evaluations"] == total
    assert read(sweep, "report", "results.json")["test_evaluations"] == total
    for text in (
        published[1],
        (sweep.folder / "best" / "README.md").read_text(),
        (sweep.folder / "report" / "index.html").read_text(),
    ):
        assert f"evaluated {total} time(s)" in text
        assert "optimistically biased" in text


def test_the_other_seed_picks_its_epoch_by_the_same_rule(published: tuple[Sweep, str]) -> None:
    sweep = published[0]
    config = read(sweep, "best", "config.json")
    record, outcome = (read(sweep, "trials", "winner-1", name) for name in ("record.json", "outcome.json"))
    assert record["recipe"] == {**config["recipe"], "seed": SEED + 1}
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    assert (outcome["trial"], outcome["seed"]) == (config["trial"], SEED + 1)
    highest = max(epoch["recall_at_1"] for epoch in record["epochs"])
    assert record["epochs"][outcome["epochs"] - 1]["recall_at_1"] == highest
    assert outcome["test"]["recall_at_1"] == pytest.approx(highest, abs=1e-6)


def test_mean_and_interval_are_those_of_the_two_scores(published: tuple[Sweep, str]) -> None:
    sweep, printed = published
    results = read(sweep, "report", "results.json")
    scores = [read(sweep, "trials", run, "outcome.json")["test"] for run in ("winner", "winner-1")]
    assert scores[0]["recall_at_1"] != scores[1]["recall_at_1"]
    assert [each["test"] for each in results["reproductions"]] == scores
    assert set(results["interval"]) == set(scores[0])
    # In-Shop has its own K.
    assert "recall_at_50" in scores[0]
    # Student's t with one degree of freedom is the Cauchy distribution.
    quantile = math.tan(math.pi * (0.975 - 0.5))
    for name, found in results["interval"].items():
        values = [score[name] for score in scores]
        assert found["mean"] == pytest.approx(statistics.mean(values), abs=1e-12)
        assert found["half_width"] == pytest.approx(quantile * statistics.stdev(values) / math.sqrt(2), rel=1e-9)
    assert read(sweep, "best", "config.json")["interval"] == results["interval"]
    mean, half = (f"{results['interval']['recall_at_1'][part]:.3f}" for part in ("mean", "half_width"))
    assert re.search(rf"mean +│ {mean}", printed)
    assert re.search(rf"95 % interval, ± +│ {half}", printed)
    for text in (
        (sweep.folder / "best" / "README.md").read_text(),
        (sweep.folder / "report" / "index.html").read_text(),
    ):
        assert mean in text
        assert half in text


def test_baselines_are_looked_for_in_the_gallery_too(published: tuple[Sweep, str], packed: Path) -> None:
    sweep = published[0]
    config = read(sweep, "best", "config.json")
    assert list(config["baselines"]) == ["frozen pretrained backbone", "raw pixels"]
    model = dfml.load(sweep.folder / "best")
    query, gallery = (ShardedImages(packed, split) for split in ("query", "gallery"))
    pixels = [
        raw_pixels(model.normalized(model.pixels([images.image(row) for row in range(len(images))]))).numpy()
        for images in (query, gallery)
    ]
    found = gallery.labels[(pixels[0] @ pixels[1].T).argmax(axis=1)] == query.labels
    assert config["baselines"]["raw pixels"]["recall_at_1"] == pytest.approx(float(found.mean()), abs=1e-6)


def test_retrievals_shown_are_gallery_images(published: tuple[Sweep, str], packed: Path) -> None:
    sweep = published[0]
    shown = read(sweep, "report", "results.json")["retrievals"]
    model = dfml.load(sweep.folder / "best")
    query, gallery = (ShardedImages(packed, split) for split in ("query", "gallery"))
    a, b = (model.embed([images.image(row) for row in range(len(images))]).numpy() for images in (query, gallery))
    assert shown
    for row in shown:
        assert row["cosine"] == pytest.approx(np.sort(a[row["query"]] @ b.T)[::-1][:5], abs=1e-3)
        assert row["right"] == (gallery.labels[row["nearest"]] == query.labels[row["query"]]).tolist()
    assert (sweep.folder / "report" / "retrievals_random.png").stat().st_size > 10_000


def test_another_seed_asked_for_later_runs_alone(published: tuple[Sweep, str], head: Head) -> None:
    sweep = published[0]
    runs = sweep.folder / "trials"
    before = {name: (runs / name / "outcome.json").read_bytes() for name in ("winner", "winner-1")}
    model = (sweep.folder / "best" / "model.safetensors").read_bytes()
    printed = sweep.added("--reproductions", "3", "--extend").run(environment=head.named)
    assert f"seed {SEED + 2} to run" in printed
    assert {name: (runs / name / "outcome.json").read_bytes() for name in before} == before
    assert (sweep.folder / "best" / "model.safetensors").read_bytes() == model
    config, third = read(sweep, "best", "config.json"), read(sweep, "trials", "winner-2", "outcome.json")
    assert [each["seed"] for each in config["reproductions"]] == [SEED, SEED + 1, SEED + 2]
    assert config["interval"]["map_at_r"]["n"] == 3
    assert config["test_evaluations"] == (TRIALS + 2) * EPOCHS + 3
    assert third["trial"] == config["trial"]
    assert f"seed {SEED + 2}" in (sweep.folder / "report" / "index.html").read_text()
