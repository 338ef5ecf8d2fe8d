"""The command lines in the publication's README run to the end on miniatures of the data sets.

The weights are random, with the shapes of DeiT-S and the file format of the original release. The
arguments that are added adapt the command lines to the small data: smaller images and batches,
fewer epochs, and paths.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from tests import forked
from tests.benchmark_layouts import LAYOUTS

pytestmark = pytest.mark.integration

CONVERT = (
    "--input deit_small_distilled_patch16_224-649709d9.pth "
    "--output pretrained_files/deit_small_distilled_factorized.pth"
)
CONVERT_FEW = "--input few_patches.pth --output pretrained_files/few_patches_factorized.pth"
SHARED = "--loss Proxy_Anchor --model deit_small_distilled_patch16_224 --embedding-size 384 --batch-size 120"
TRAIN = {
    "cub": f"{SHARED} --lr 1e-4 --dataset cub --warm 5 --bn-freeze 1 --lr-decay-step 5",
    "cars": f"{SHARED} --lr 1e-4 --dataset cars --warm 5 --bn-freeze 1 --lr-decay-step 10",
    "SOP": f"{SHARED} --lr 6e-4 --dataset SOP --warm 1 --bn-freeze 0 --lr-decay-step 10 --lr-decay-gamma 0.25",
}
# The same model for images of 2 × 2 instead of 14 × 14 patches; a step is 50 times faster.
READ = "--readpath pretrained_files/few_patches_factorized.pth --image-size 32"
FEWER = "--batch-size 6 --warm 1 --epochs 2"
# A small model for tests that don't depend on the publication's model.
SMALL = "--model test_resnet --routers 2 --readpath random --image-size 32 --batch-size 6 --epochs 2"


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **forked.workers(), **environment}
    return forked.run(command, cwd=folder, env=env, capture_output=True, timeout=600)


def python(module: str, arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", module, *arguments.split()], folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a user's folder: original and converted weights, and ./data with all data sets."""
    root = tmp_path_factory.mktemp("publication")
    torch.manual_seed(0)
    for command, size in ((CONVERT, 224), (CONVERT_FEW, 32)):
        model = timm.create_model("deit_small_distilled_patch16_224", img_size=size)
        torch.save({"model": model.state_dict()}, root / command.split()[1])
        done = python("dfml.convert", command, root)
        assert done.returncode == 0, done.stderr
    for draw in LAYOUTS.values():
        draw(root / "data")
    return root


@pytest.mark.parametrize("dataset", TRAIN)
def test_command_line_of_the_publication_runs_to_the_end(dataset: str, folder: Path) -> None:
    done = python("dfml.train", f"{TRAIN[dataset]} {READ} {FEWER} --out {dataset}", folder)
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line) for line in (folder / dataset / "epochs.jsonl").read_text().splitlines()]
    assert [metrics["epoch"] for metrics in epochs] == [1, 2]
    config = json.loads((folder / dataset / "best" / "config.json").read_text())
    names = [1, 10, 100, 1000] if dataset == "SOP" else [1, 2, 4, 8]
    assert list(config["test"]) == [*(f"recall_at_{k}" for k in names), "r_precision", "map_at_r", "nmi", "f1"]
    assert all(0 <= value <= 1 for value in config["test"].values())
    assert "the test classes are evaluated once" in done.stdout

    # `evaluate` computes for the stored model the metrics that `train` reported.
    again = python("dfml.evaluate", f"--resume {dataset}/best --dataset {dataset} --json", folder)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == pytest.approx(config["test"], abs=1e-6)


def test_weights_of_the_publication_are_evaluated_as_they_are(folder: Path) -> None:
    """Converted and dense weights and a checkpoint of the publication's train.py score alike."""
    state = torch.load(folder / "pretrained_files" / "deit_small_distilled_factorized.pth", weights_only=True)["model"]
    torch.save({"model_state_dict": state}, folder / "cub_best.pth")
    found = []
    for file in (
        "cub_best.pth",
        "pretrained_files/deit_small_distilled_factorized.pth",
        "deit_small_distilled_patch16_224-649709d9.pth",
    ):
        done = python("dfml.evaluate", f"--resume {file} --dataset cub --json", folder)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert list(found[0])[:2] == ["recall_at_1", "recall_at_2"]
    assert found[1] == found[0]
    assert found[2] == pytest.approx(found[0], abs=1e-6)


def test_under_torchrun_two_processes_train_one_model_and_the_same_command_resumes(folder: Path) -> None:
    flags = f"--dataset SOP {SMALL} --protocol paper --out two".split()
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "dfml.train",
    ]
    done = run([*torchrun, *flags], folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    # Only one of the two processes prints.
    assert done.stdout.count("epoch 1/2") == 1
    assert "optimistically biased" in done.stdout
    again = run([*torchrun, *flags], folder, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert "resuming after epoch 2 of 2" in again.stdout
    assert again.stdout.count("Test classes, epoch") == 1
    config = json.loads((folder / "two" / "best" / "config.json").read_text())
    flags = ["--resume", "two/best", "--dataset", "SOP", "--json"]
    scored = run([*torchrun[:-1], "dfml.evaluate", *flags], folder)
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout) == pytest.approx(config["test"], abs=1e-6)
    assert len((folder / "two" / "epochs.jsonl").read_text().splitlines()) == 2


def test_in_shop_is_scored_by_its_queries_against_its_gallery(folder: Path) -> None:
    done = python("dfml.train", f"--dataset Inshop --set sparse_training=true {SMALL} --out shop", folder)
    assert done.returncode == 0, done.stderr
    test = json.loads((folder / "shop" / "best" / "config.json").read_text())["test"]
    assert list(test) == [*(f"recall_at_{k}" for k in (1, 10, 20, 30, 40, 50)), "r_precision", "map_at_r"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (f"--dataset birds {SMALL}", "unknown data set 'birds'"),
        (f"--dataset cub {SMALL} --data-root nowhere", "nowhere/CUB_200_2011 doesn't exist"),
        (f"--dataset cub {SMALL} --loss Hinge", "unknown loss 'Hinge'; name one of"),
        (f"--dataset cub {SMALL} --loss MS", "images_per_class to 2 or more"),
        (f"--dataset cub {SMALL} --bn-freeze 0", "set --bn-freeze 1"),
        (f"--dataset cub {SMALL} --batch-size 600", "batch_size 600 is larger than the 12 training images"),
        (f"--dataset cub {SMALL} --optimizer lion", "optimizer = 'lion'"),
        (f"--dataset cub {SMALL} --warm 2", "warm_epochs 2 leaves none"),
        (f"--dataset cub {SMALL} --set lr=1", "--set lr: lr has a flag of its own"),
        (f"--dataset cub {SMALL} --set color=1", "a recipe has no 'color'"),
        (f"--dataset cub {SMALL} --set precision=int4", "precision = 'int4'"),
        ("--dataset cub --model deit_gigantic", "deit_gigantic"),
        ("--dataset cub --readpath missing.pth --batch-size 6", "missing.pth don't exist"),
        (f"--dataset Inshop {SMALL} --protocol paper", "use holdout"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    flags: str, reason: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dfml.train.__main__ import main

    monkeypatch.chdir(folder)
    assert main([*flags.split(), "--out", "bad"]) == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("packing data/")]
    assert error.startswith("error: ")
    assert reason in error
    assert not (folder / "bad").exists()


def test_a_folder_of_another_run_is_not_overwritten(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dfml.train.__main__ import main

    monkeypatch.chdir(folder)
    flags = f"--dataset cub {SMALL} --out mine"
    assert main(flags.split()) == 0
    assert main([*flags.split(), "--lr", "5e-4"]) == 2
    assert "holds a run with lr = 0.0001, now it is 0.0005" in capfd.readouterr().err
