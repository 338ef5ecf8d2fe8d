"""Plans that would fail are refused before a sweep starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from dfml.convert import main as write_factorized
from dfml.data.datasets import SHIPPED
from dfml.data.packing.pack import pack
from dfml.errors import InvalidInput
from dfml.pretrained import create_backbone
from orchestration.plan import ExecutionOptions
from orchestration.search.space import SearchSpace, build_space
from tests.packed import many
from tests.plans import plan_of


def test_a_data_set_without_test_split_is_refused(tmp_path: Path) -> None:
    from dfml.data.format.shards import ImageRow
    from dfml.data.packing.pack import pack
    from dfml.data.streaming.sharded_images import ShardedImages

    images = ShardedImages(SHIPPED["emoji"], "train")
    pack([ImageRow(images.encoded(0), "a", "a.webp", "train")], tmp_path, "half")
    with pytest.raises(InvalidInput, match="no split 'test'"):
        plan_of(data=str(tmp_path)).check(tmp_path / "cache")


def test_a_weights_file_must_fit_backbone_and_router_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def space(weights: str, num_sub_blocks: list[int]) -> SearchSpace:
        recipe = {"backbone": "vit_tiny_patch16_224", "weights": weights, "epochs": 2, "warm_epochs": 1}
        return build_space({"recipe": recipe, "search": {"num_sub_blocks": {"choice": num_sub_blocks}}}, "test")

    monkeypatch.chdir(tmp_path)
    save_file(create_backbone("vit_tiny_patch16_224", "random", 224).state_dict(), "plain.safetensors")
    plain = space("plain.safetensors", [1, 3]).with_absolute_weights()
    monkeypatch.chdir("/")
    plan = plan_of(space=plain)
    assert plan.weights_files() == [str(tmp_path / "plain.safetensors")]
    plan.check(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert write_factorized(["--input", "plain.safetensors", "--output", "three.pth"]) == 0
    with pytest.raises(InvalidInput, match="has 3 sub-blocks per block, not 2"):
        plan_of(space=space("three.pth", [3, 2])).check(tmp_path / "cache")


def test_a_batch_smaller_than_the_workers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="batch_size 120 is smaller than --workers-per-trial 121"):
        plan_of(workers_per_trial=121).check(Path("unused"))


def test_workers_that_get_a_part_of_a_gpu_train_alone() -> None:
    """NCCL refuses two ranks of a process group on one GPU."""
    half = ExecutionOptions(gpus_per_worker=0.5)
    half.check_workers(None)
    half.check_workers(1)
    with pytest.raises(InvalidInput, match=r"--gpus-per-worker 0.5 .* with 2 workers per trial, because NCCL refuses"):
        half.check_workers(2)
    ExecutionOptions(gpus_per_worker=1).check_workers(2)
    ExecutionOptions().check_workers(2)


def test_queries_and_a_gallery_are_as_good_as_a_test_split(tmp_path: Path) -> None:
    pack([*many(10, 3), *many(2, 2, "query"), *many(2, 2, "gallery")], tmp_path, "inshop")
    recipe = {"backbone": "tf_efficientnet_lite0", "weights": "random", "batch_size": 6, "epochs": 2, "warm_epochs": 1}
    search = {"num_sub_blocks": {"choice": [2, 3]}}
    plan_of(data=str(tmp_path), space=build_space({"recipe": recipe, "search": search}, "test")).check(
        tmp_path / "cache"
    )
    classifier = build_space({"recipe": {**recipe, "loss": "cross_entropy"}, "search": search}, "test")
    with pytest.raises(InvalidInput, match="no split 'test'"):
        plan_of(data=str(tmp_path), space=classifier).check(tmp_path / "cache")


def test_as_published_a_batch_may_take_all_training_classes(tmp_path: Path) -> None:
    """Of the 10 classes, 8 remain for training if a fifth is held out."""
    pack([*many(10, 3), *many(2, 2, "test")], tmp_path, "ten")
    recipe = {
        "backbone": "tf_efficientnet_lite0",
        "weights": "random",
        "batch_size": 20,
        "images_per_class": 2,
        "epochs": 2,
        "warm_epochs": 1,
    }
    space = build_space({"recipe": recipe, "search": {"num_sub_blocks": {"choice": [2, 3]}}}, "test")
    plan_of(data=str(tmp_path), space=space, protocol="paper").check(tmp_path / "cache")
    with pytest.raises(InvalidInput, match="batch_size"):
        plan_of(data=str(tmp_path), space=space).check(tmp_path / "cache")
