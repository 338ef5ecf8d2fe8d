"""The objective against its equation (docs/method.md), written out over two separate passes."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import Tensor

from dfml.embedding_model import build_model
from dfml.objective import Objective
from dfml.recipe import Recipe
from tests.dfml.factorized.backbones import randomized

CLASSES = 5
LABELS = torch.tensor([0, 0, 3, 3, 1, 1])


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    """Return a recipe whose weights differ from the defaults and from each other."""
    weights = {"routed_weight": 0.3, "embedding_reconstruction": 0.7, "stream_reconstruction": 0.01}
    return tiny_recipe.model_copy(update={**weights, "embedding_size": 12, "alpha": 8.0, "margin": 0.2})


@pytest.fixture
def objective(recipe: Recipe) -> Objective:
    torch.manual_seed(0)
    model = build_model(recipe)
    randomized(model)
    return Objective(model, CLASSES).double().train()


def images() -> Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def expected_loss(objective: Objective, recipe: Recipe) -> Tensor:
    model = objective.model
    metric_loss = ProxyAnchorLoss(CLASSES, 12, margin=recipe.margin, alpha=recipe.alpha)
    metric_loss.proxies = objective.metric_loss.proxies
    both = model.backbone(images(), "both")
    full, routed = model.head(both.full), model.head(both.routed)
    e_full, e_routed = (e / e.square().sum(1, keepdim=True).sqrt() for e in (full, routed))
    embedding = (e_routed - e_full.detach()).square().sum(1).sqrt().sum()
    stream = both.distance
    return metric_loss(e_full, LABELS) + 0.3 * (metric_loss(e_routed, LABELS) + 0.7 * embedding + 0.01 * stream)


def test_loss_and_its_gradients_are_those_of_the_equation(objective: Objective, recipe: Recipe) -> None:
    parameters = dict(objective.named_parameters())
    given, expected = objective(images(), LABELS)["loss"], expected_loss(objective, recipe)
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=0.0)
    truth = torch.autograd.grad(expected, list(parameters.values()))
    for name, a, b in zip(parameters, torch.autograd.grad(given, list(parameters.values())), truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_terms_for_the_log_make_up_the_loss(objective: Objective) -> None:
    terms = objective(images(), LABELS)
    made_up = terms["loss_full"] + 0.3 * (
        terms["loss_routed"] + 0.7 * terms["reconstruction_embedding"] + 0.01 * terms["reconstruction_stream"]
    )
    torch.testing.assert_close(terms["loss"], made_up)
    assert all(term.item() > 0 for term in terms.values())


def test_warm_up_leaves_proxies_and_routers_to_train(objective: Objective) -> None:
    objective.set_warm_up(True)
    trained = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    routers = {f"model.backbone.blocks.{i}.router.weight" for i in range(len(objective.model.backbone.blocks))}
    assert trained == {"metric_loss.proxies"} | routers


def test_after_warm_up_everything_trains(objective: Objective) -> None:
    objective.set_warm_up(True)
    objective.set_warm_up(False)
    assert all(parameter.requires_grad for parameter in objective.parameters())
