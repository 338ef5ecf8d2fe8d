"""The router: a one-hot choice forward, the softmax's gradient backward."""

from __future__ import annotations

import torch

from dfml.factorized.router import Router


def test_forward_is_one_hot_at_the_largest_logit() -> None:
    router = Router(8, 5)
    z = torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.einsum("bnc,kc->bnk", z, router.weight)
    expected = torch.zeros(4, 50, 5).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    assert torch.equal(router(z), expected)


def test_backward_is_that_of_the_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    router = Router(8, 5).double()
    z = torch.randn(20, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    given = torch.autograd.grad((router(z) * slopes).sum(), [z, router.weight])
    expected = torch.autograd.grad((torch.softmax(z @ router.weight.T, dim=1) * slopes).sum(), [z, router.weight])
    torch.testing.assert_close(given, expected)


def test_one_router_chooses_itself() -> None:
    assert torch.equal(Router(8, 1)(torch.randn(3, 8)), torch.ones(3, 1))


def test_router_starts_as_a_linear_layer_without_bias_does() -> None:
    torch.manual_seed(3)
    router = Router(16, 4)
    torch.manual_seed(3)
    assert torch.equal(router.weight, torch.nn.Linear(16, 4, bias=False).weight)
