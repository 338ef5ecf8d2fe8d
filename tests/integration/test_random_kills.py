"""Ten failures at random in one sweep of twelve trials on three nodes."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from nodes import SOON_LOST, TRIAL_PROCESS, WORKER_PROCESS, Console, Nodes, cluster_of
from small_sweep import Sweep, sweep_of

import dfml
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import training_and_validation
from dfml.recipe import recipe_from
from dfml.train import Training
from orchestration.trials.checkpoints import SNAPSHOT

pytestmark = [pytest.mark.integration, pytest.mark.clusters]

TRIALS, KILLS = 12, 10
# Seed of the sweep and of the failures.
SEED = 5
LONGER = ("--set", "image_size=64", "--set", "batch_size=8")
# Approximate seconds of an epoch, while two other trials run on two cores.
EPOCH = 2.0


def lose_something(nodes: Nodes, rng: random.Random) -> str | None:
    """Kill a random worker, trial process or node; return its kind, or None if there is none."""
    kind = rng.choice(["worker", "worker", "trial", "node"])
    running = nodes.processes(TRIAL_PROCESS if kind == "trial" else WORKER_PROCESS)
    if not running:
        return None
    victim = rng.choice(running)
    try:
        if kind == "node":
            nodes.lose(nodes.node_of(victim))
            nodes.nodes.append(nodes.add())
        else:
            victim.kill()
    except psutil.NoSuchProcess:
        return None
    return kind


@pytest.fixture(scope="module")
def battered(few_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str, list[str]]:
    """Run the sweep and kill parts of it; return it, its output and the kinds of killed parts."""
    sweep = sweep_of(few_emoji, tmp_path_factory.mktemp("battered"), "sweep", trials=TRIALS)
    sweep.arguments += ["--workers-per-trial", "1", "--concurrent-trials", "3", *LONGER]
    rng, killed = random.Random(SEED), []
    with cluster_of(3, SOON_LOST) as nodes:
        console = Console(nodes.start(sweep))
        # Numbers of ended epochs after which a kill follows; no trial has fewer than two epochs.
        for epochs in sorted(rng.sample(range(1, 2 * TRIALS - 1), KILLS)):
            while console.printed.count("  epoch ") < epochs:
                assert console.process.poll() is None, f"ended after {killed}:\n{console.printed}"
                time.sleep(0.1)
            time.sleep(rng.uniform(0, EPOCH))
            while not (kind := lose_something(nodes, rng)):
                assert console.process.poll() is None, f"ended after {killed}:\n{console.printed}"
                time.sleep(0.2)
            killed.append(kind)
        printed = console.end(600)
        assert console.process.returncode == 0, printed
        assert nodes.left_placement_groups() == "[]"
    return sweep, printed, killed


def records(sweep: Sweep) -> list[dict[str, Any]]:
    folders = sorted((sweep.folder / "trials").glob("0*"))
    return [json.loads((folder / "record.json").read_text()) for folder in folders]


def test_all_trials_end_and_no_finished_epoch_is_computed_twice_a_kill(battered: tuple[Sweep, str, list[str]]) -> None:
    sweep, printed, killed = battered
    found = records(sweep)
    assert len(killed) == KILLS
    assert [record["state"] in ("finished", "stopped") for record in found] == [True] * TRIALS, printed
    for record in found:
        assert record["repeated_epochs"] <= record["restarts"]
    # The other kills happened in trials that were just ending, or in the winner's training.
    assert sum(record["restarts"] for record in found) >= KILLS / 2


def test_the_best_checkpoints_metric_is_that_of_a_fresh_evaluation(
    battered: tuple[Sweep, str, list[str]], few_emoji: Path
) -> None:
    """The winning trial's best checkpoint is loaded into a new model and scored as before."""
    sweep = battered[0]
    winner = json.loads((sweep.folder / "report" / "results.json").read_text())["winner"]
    run = sweep.folder / "trials" / f"{winner:03d}"
    kept = json.loads((run / SNAPSHOT).read_text())["checkpoint_results"]
    best = max(kept, key=lambda result: result["metrics"]["score"])
    record = records(sweep)[winner]
    assert best["metrics"]["score"] == record["epochs"][-1]["best_score"]
    recipe = recipe_from(record["recipe"])
    images = ShardedImages(few_emoji, "train")
    training = Training(recipe, *training_and_validation(images, SEED, recipe.task), torch.device("cpu"))
    training.load(run / best["checkpoint_dir_name"])
    assert training.validation is not None
    embeddings = training.embed(training.validation.queries).numpy()
    labels = training.validation.queries.targets
    assert recall_at_1(embeddings, labels) == pytest.approx(best["metrics"]["metrics"]["recall_at_1"], abs=1e-6)


def test_the_models_metric_is_that_of_a_fresh_evaluation(
    battered: tuple[Sweep, str, list[str]], few_emoji: Path
) -> None:
    best = battered[0].folder / "best"
    images = ShardedImages(few_emoji, "test")
    embeddings = dfml.load(best).embed([images.image(row) for row in range(len(images))]).numpy()
    reported = json.loads((best / "config.json").read_text())["test"]["recall_at_1"]
    assert recall_at_1(embeddings, images.labels) == pytest.approx(reported, abs=1e-6)


def recall_at_1(embeddings: np.ndarray, labels: np.ndarray) -> float:
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -np.inf)
    return float(np.mean(labels[cosine.argmax(axis=1)] == labels))
