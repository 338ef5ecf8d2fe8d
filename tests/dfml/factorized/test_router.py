"""The router: the choice by the largest logit, the softmax's gradient, and rows by sub-block."""

from __future__ import annotations

import pytest
import torch

from dfml.factorized.router import Router, Routing


def test_each_token_goes_where_its_logit_is_largest() -> None:
    router = Router(8, 5)
    z = torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.einsum("bnc,kc->bnk", z, router.weight).flatten(0, 1)
    routing = router(z)
    assert torch.equal(routing.chosen, logits.argmax(-1))
    torch.testing.assert_close(routing.p, torch.softmax(logits, dim=-1))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_temperature_divides_the_logits_and_changes_no_choice(temperature: float) -> None:
    router = Router(8, 5).double()
    z = torch.randn(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = router(z).chosen
    router.temperature = temperature
    assert torch.equal(router(z).chosen, before)
    torch.testing.assert_close(router(z).p, torch.softmax(z @ router.weight.T / temperature, dim=1))


@pytest.mark.parametrize("probabilities", [torch.rand(40, 3), torch.tensor([[0.1, 0.9, 0.0]] * 4), torch.rand(1, 1)])
def test_split_gives_each_sub_block_its_rows_and_join_puts_them_back(probabilities: torch.Tensor) -> None:
    routing = Routing(probabilities)
    x = torch.randn(len(probabilities), 2, 3, requires_grad=True)
    parts = routing.split(x)
    for k, part in enumerate(parts):
        assert torch.equal(part, x[probabilities.argmax(1) == k])
    joined = routing.join([part * (k + 1) for k, part in enumerate(parts)])
    expected = x * (probabilities.argmax(1) + 1)[:, None, None]
    assert torch.equal(joined, expected)
    weights = torch.randn_like(x)
    given, truth = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (joined, expected))
    assert torch.equal(given, truth)


def test_routing_stays_in_float32_under_autocast() -> None:
    router = Router(8, 3)
    z = torch.randn(20, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = router(z).p
    assert given.dtype == torch.float32
    assert torch.equal(given, router(z).p)


def test_router_starts_as_a_linear_layer_without_bias_does() -> None:
    torch.manual_seed(3)
    router = Router(16, 4)
    torch.manual_seed(3)
    assert torch.equal(router.weight, torch.nn.Linear(16, 4, bias=False).weight)
