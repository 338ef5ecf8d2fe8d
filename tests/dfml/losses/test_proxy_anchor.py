"""Proxy-Anchor against pytorch-metric-learning's implementation."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import Tensor
from torch.nn import functional as F

from dfml.losses.build import build_loss
from dfml.losses.proxy_anchor import ProxyAnchor
from dfml.recipe import recipe_from

CLASSES, WIDTH = 9, 16


def reference(loss: ProxyAnchor) -> ProxyAnchorLoss:
    classes, width = loss.proxies.shape
    truth = ProxyAnchorLoss(classes, width, margin=loss.margin, alpha=loss.alpha).to(loss.proxies.dtype)
    with torch.no_grad():
        truth.proxies.copy_(loss.proxies)
    return truth


def batch(labels: list[int]) -> tuple[Tensor, Tensor]:
    """Return unnormalized features, and labels."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(labels), WIDTH, generator=generator, dtype=torch.float64)
    return features.requires_grad_(), torch.tensor(labels)


@pytest.mark.parametrize(("alpha", "margin"), [(32.0, 0.1), (16.0, 0.0), (64.0, 0.3)])
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 2, 2], list(range(9)), [4] * 5], ids=["classes absent", "all classes", "one class"]
)
def test_value_and_gradients_are_those_of_pytorch_metric_learning(
    labels: list[int], alpha: float, margin: float
) -> None:
    torch.manual_seed(1)
    loss = ProxyAnchor(CLASSES, WIDTH, alpha, margin).double()
    truth = reference(loss)
    features, targets = batch(labels)
    given, expected = loss(F.normalize(features, dim=1), targets), truth(features, targets)
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(
        torch.autograd.grad(given, [features, loss.proxies]),
        torch.autograd.grad(expected, [features, truth.proxies]),
        rtol=1e-8,
        atol=1e-12,
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_finite_where_all_images_lie_on_or_opposite_a_proxy(sign: float) -> None:
    """In float32, a plain exp of many images overflows at alpha 32 and above."""
    loss = ProxyAnchor(4, WIDTH, alpha=128.0, margin=0.5)
    embeddings = sign * F.normalize(loss.proxies.detach(), dim=1)[[0] * 64]
    embeddings.requires_grad_()
    for label in (0, 1):
        value = loss(embeddings, torch.full((64,), label))
        value.backward()
        assert torch.isfinite(value)
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(loss.proxies.grad).all()


def test_a_step_pulls_the_proxy_of_the_image_and_pushes_those_of_absent_classes() -> None:
    torch.manual_seed(1)
    loss = ProxyAnchor(3, WIDTH).double()
    features, targets = batch([0])
    embedding = F.normalize(features.detach(), dim=1)
    loss(embedding, targets).backward()
    before = F.normalize(loss.proxies.detach(), dim=1)
    after = F.normalize(loss.proxies.detach() - 1e-4 * loss.proxies.grad, dim=1)
    nearer = (embedding @ (after - before).T)[0]
    assert nearer[0] > 0
    assert (nearer[1:] < 0).all()


def test_recipe_gives_alpha_and_margin() -> None:
    loss = build_loss(recipe_from({"alpha": 7.0, "margin": 0.25}), classes=5, width=6)
    assert isinstance(loss, ProxyAnchor)
    assert (loss.alpha, loss.margin, loss.proxies.shape) == (7.0, 0.25, (5, 6))
