"""Bad input to `run_sweep.py`: one sentence, exit code 2, nothing started, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dfml.data.datasets import REPOSITORY
from orchestration.cli import main, options_from, plan_from
from orchestration.flags import parser
from orchestration.search.budget import Budget
from tests.s3.locations import client_of, new_bucket, use
from tests.s3.servers import Server


def refused(capsys: pytest.CaptureFixture[str], storage: Path, *arguments: str) -> str:
    """Return the command's last line; check that it wrote nothing except the storage's folder."""
    assert main(["--storage", str(storage), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not storage.exists() or list(storage.iterdir()) == []
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "pets"], ["'pets'", "emoji", "--data"]),
        (["--set", "num_sub_blocks=3"], ["'num_sub_blocks'", "command line", "search_spaces/emoji.yaml"]),
        (["--set", "lr=1e-3"], ["'lr'", "command line", "search_spaces/emoji.yaml"]),
        (["--set", "color=1"], ["'color'", "backbone"]),
        (["--set", "alpha"], ["alpha", "NAME=VALUE"]),
        (["--set", "alpha=-1"], ["alpha", "-1", "greater than 0"]),
        (["--set", "backbone=resnet1000"], ["resnet1000"]),
        (["--set", "backbone=convnext_atto"], ["ConvNeXt", "VisionTransformer"]),
        (["--max-epochs", "1"], ["warm_epochs 1", "1 epochs"]),
        (["--set", "batch_size=4800"], ["2400 classes × 2 images", "batch_size"]),
        (["--set", "images_per_class=7"], ["images_per_class 7", "batch_size 48"]),
        (["--protocol", "test"], ["--protocol", "'test'", "holdout", "paper"]),
        (["--reproductions", "0"], ["--reproductions", "0", "1 or more"]),
        (["--gpus-per-worker", "2"], ["--gpus-per-worker", "'2'", "at most 1", "never uses two GPUs"]),
        (["--gpus-per-worker", "0"], ["--gpus-per-worker", "'0'", "more than 0"]),
        (["--gpus-per-worker", "0.33333"], ["--gpus-per-worker", "'0.33333'", "four decimals"]),
        (["--gpus-per-worker", "half"], ["--gpus-per-worker", "'half'", "0.5"]),
        (["--gpus-per-worker", "nan"], ["--gpus-per-worker", "'nan'"]),
        (["--gpus-per-worker", "0.5", "--workers-per-trial", "2"], ["0.5", "2 workers", "NCCL", "leave it out"]),
        (["--max-epochs", "0"], ["--max-epochs", "0", "1 or more"]),
        (["--budget", "3days"], ["--budget", "'3days'", "12h"]),
        (["--objectives", "recall@1,speed"], ["--objectives", "'speed'", "flops"]),
        (["--objectives", "flops"], ["--objectives", "recall@1,flops"]),
        (["--extend"], ["--extend", "there is no sweep"]),
        (["--trials", "many"], ["--trials", "many"]),
        (["--trails", "3"], ["--trails", "--help"]),
        (["--name", "a/b"], ["a/b"]),
        (["--set", "seed=3"], ["seed=3", "--seed"]),
        (["--set", "epochs=9", "--max-epochs", "2"], ["epochs=9", "--max-epochs"]),
        (["--set", "alpha=16", "--set", "alpha=32"], ["alpha=32", "alpha=16"]),
        (["--set", "weights=no/such.pth"], ["no/such.pth", "don't exist"]),
        (["--data", "/nowhere"], ["/nowhere", "manifest.json"]),
        (["--search-space", "/nowhere.yaml"], ["/nowhere.yaml", "search_spaces/emoji.yaml"]),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sentence = refused(capsys, tmp_path / "storage", *arguments)
    for part in said:
        assert part in sentence


def test_a_router_count_that_does_not_divide_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "recipe: {backbone: tf_efficientnet_lite0, epochs: 4, warm_epochs: 1}\n"
        "search: {num_sub_blocks: {choice: [3, 5]}}\n"
    )
    sentence = refused(capsys, tmp_path / "storage", "--search-space", str(space))
    assert "num_sub_blocks 5" in sentence
    assert "1, 2, 3, 4, 6" in sentence


def test_an_unknown_name_in_a_search_space_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("search: {learning_rate: {low: 1.0e-4, high: 1.0e-3}}\n")
    sentence = refused(capsys, tmp_path / "storage", "--search-space", str(space))
    assert str(space) in sentence
    assert "'learning_rate'" in sentence
    assert " lr," in sentence


def test_a_storage_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file has the folder's name: no user can write there, not even root."""
    (tmp_path / "file").write_text("")
    assert main(["--storage", str(tmp_path / "file" / "sweeps")]) == 2
    sentence = capsys.readouterr().err
    assert str(tmp_path / "file" / "sweeps") in sentence
    assert "s3://" in sentence
    assert sentence.count("\n") == 1


def test_a_storage_of_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--storage", "ftp://host/sweeps"]) == 2
    assert "s3://" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--extend"]])
@pytest.mark.parametrize(
    ("storage", "name", "part"),
    [
        ("s3://{}/models", "#1", "#1"),
        ("s3://{}/models", "a%20b", "a%20b"),
        ("s3://{}/models", "größe", "größe"),
        ("s3://{}/models", "v?", "v?"),
        ("s3://{}/my sweeps", "a", "my sweeps"),
        ("s3://{}/a#b/c", "a", "a#b"),
        ("s3://{}//c", "a", ""),
    ],
)
def test_a_place_on_s3_that_ray_would_read_as_another_is_refused_before_anything_is_written(
    storage: str,
    name: str,
    part: str,
    more: list[str],
    moto: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(moto, monkeypatch)
    bucket = new_bucket(moto)
    client_of(moto).put_object(Bucket=bucket, Key="models/checkpoint_old/weights.pt", Body=b"mine")
    assert main(["--storage", storage.format(bucket), "--name", name, *more]) == 2
    said = capsys.readouterr().err
    assert f"Ray would read {part!r} in it as another location" in said
    assert said.count("\n") == 1
    kept = client_of(moto).list_objects_v2(Bucket=bucket)["Contents"]
    assert [found["Key"] for found in kept] == ["models/checkpoint_old/weights.pt"]


def test_the_command_itself_leaves_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "run_sweep.py"), "--dataset", "pets"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_argument_and_its_default() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "run_sweep.py"), "--help"], capture_output=True, text=True, check=True
    )
    for argument in ("--dataset", "--trials", "--max-epochs", "--workers-per-trial", "--storage", "--name", "--seed"):
        assert argument in done.stdout
    assert "None" not in done.stdout


def test_every_argument_reaches_the_plan(tmp_path: Path) -> None:
    words = (
        "--trials 7 --workers-per-trial 1 --seed 3 --protocol paper --reproductions 2 --objectives recall@1,flops "
        "--budget 9epochs"
    )
    plan, sweep = plan_from(parser().parse_args([*words.split(), "--storage", str(tmp_path), "--name", "mine"]))
    assert (plan.trials, plan.workers_per_trial, plan.seed) == (7, 1, 3)
    assert (plan.protocol, plan.reproductions) == ("paper", 2)
    assert plan.objectives == ("score", "flops")
    assert plan.budget == Budget(epochs=9)
    assert plan.defaults().inference == "routed"  # the path whose FLOPs are counted
    assert plan.defaults().seed == 3
    assert sweep == f"{tmp_path}/mine"


def test_options_that_dont_change_the_results_are_no_part_of_the_plan() -> None:
    words = "--gpus-per-worker 0.25 --concurrent-trials 3 --min-workers 1 --wandb off"
    options = options_from(parser().parse_args(words.split()))
    assert (options.gpus_per_worker, options.concurrent_trials, options.min_workers) == (0.25, 3, 1)
    assert options_from(parser().parse_args(["--wandb", "off"])).gpus_per_worker is None


@pytest.mark.parametrize("flags", [[], ["--deterministic"]])
def test_workers_are_told_whether_to_be_deterministic(flags: list[str], tmp_path: Path) -> None:
    """It isn't part of the plan: a sweep may be resumed with or without it."""
    # Ray, which takes seconds to import.
    from orchestration.cluster.resources import TrialResources
    from orchestration.sweep import sweep_settings

    arguments = parser().parse_args([*flags, "--wandb", "off", "--storage", str(tmp_path)])
    plan, sweep = plan_from(arguments)
    resources = TrialResources(workers=1, cpus=1, gpus=0, concurrent=1, min_workers=1)
    assert sweep_settings(plan, sweep, resources, options_from(arguments)).deterministic == bool(flags)
    assert "deterministic" not in plan.model_dump()
