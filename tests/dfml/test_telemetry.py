"""Router telemetry against counts by hand."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from unittest import TestCase

import numpy as np
import pytest
import torch

from dfml.embedding_model import EmbeddingModel, build_model
from dfml.factorized import BothPaths
from dfml.recipe import Recipe, recipe_from
from dfml.telemetry import RouterTelemetry

RECIPE = {"backbone": "test_vit3", "weights": "random", "image_size": 32, "num_sub_blocks": 3, "blocks": "1,4"}


@pytest.fixture
def model() -> EmbeddingModel:
    torch.manual_seed(0)
    return build_model(recipe_from(RECIPE)).eval()


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def both(model: EmbeddingModel, images: torch.Tensor) -> BothPaths:
    with torch.no_grad():
        return model.both_paths(images)


def test_loads_and_entropy_are_those_of_all_tokens_of_the_epoch(model: EmbeddingModel) -> None:
    seen: list[torch.Tensor] = []
    router = model.backbone.routers()[2]
    telemetry = RouterTelemetry(model.backbone, pictures(2, 0))
    hook = router.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for step in range(2):
        telemetry.add(both(model, pictures(3 + step, step)).routing)
    hook.remove()
    metrics = telemetry.metrics()
    p = torch.cat([torch.softmax(z.flatten(0, -2) @ router.weight.T, 1) for z in seen]).double()
    assert len(p) == 7 * 5
    for k in range(3):
        assert metrics["router_load"][2][k] == pytest.approx(float((p.argmax(1) == k).double().mean()))
    assert np.shape(metrics["router_load"]) == (4, 3)
    assert 0 < metrics["router_entropy"] <= 1


def test_entropy_is_1_for_routers_that_cannot_decide(model: EmbeddingModel) -> None:
    for router in model.backbone.routers():
        router.temperature = 1e6
    telemetry = RouterTelemetry(model.backbone, pictures(2, 0))
    telemetry.add(both(model, pictures(2, 0)).routing)
    assert telemetry.metrics()["router_entropy"] == pytest.approx(1.0, abs=1e-6)


def test_switched_is_the_share_of_tokens_that_change_their_choice(model: EmbeddingModel) -> None:
    telemetry = RouterTelemetry(model.backbone, pictures(2, 0))
    telemetry.add(both(model, pictures(2, 0)).routing)
    assert telemetry.metrics()["router_switched"] == 0.0
    last = model.backbone.routers()[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[[1, 2, 0]])  # every token of this router changes its sub-block
    assert telemetry.metrics()["router_switched"] == pytest.approx(1 / 4)


def test_collapse_is_counted_and_warned_of_with_a_way_out(model: EmbeddingModel) -> None:
    router = model.backbone.routers()[1]
    with torch.no_grad():
        router.weight.zero_()  # all logits tie: argmax takes the first
    telemetry = RouterTelemetry(model.backbone, pictures(2, 0))
    telemetry.add(both(model, pictures(2, 0)).routing)
    with TestCase().assertLogs("dfml", logging.WARNING) as warned:
        metrics = telemetry.metrics()
    assert metrics["router_load"][1][0] == 1.0
    assert metrics["routers_collapsed"] >= 1
    assert "balance_weight" in warned.output[0]


def test_one_sub_block_is_no_collapse() -> None:
    model = build_model(recipe_from({**RECIPE, "num_sub_blocks": 1}))
    telemetry = RouterTelemetry(model.backbone, pictures(2, 0))
    telemetry.add(both(model, pictures(2, 0)).routing)
    metrics = telemetry.metrics()
    assert metrics["routers_collapsed"] == 0
    assert math.isfinite(metrics["router_entropy"])


def test_training_reports_the_routers(tiny_recipe: Recipe, packed: Path) -> None:
    from dfml.data.streaming.sharded_images import ShardedImages
    from dfml.data.streaming.split import subset_of_classes
    from dfml.train import Training

    training = Training(tiny_recipe, subset_of_classes(ShardedImages(packed, "train")), None, torch.device("cpu"))
    metrics = next(training.epochs())
    assert 0 <= metrics["router_switched"] <= 1
    assert sum(metrics["router_load"][0]) == pytest.approx(1.0)
