"""The losses by name, against the papers' formulas in plain loops over float64 embeddings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.errors import InvalidInput
from dfml.losses import CONSTANTS, MetricLossName, loss_name
from dfml.losses.build import build_loss
from dfml.recipe import recipe_from

CLASSES, WIDTH = 5, 6
LABELS = [0, 1, 1, 3, 0, 3, 1, 0]


def built(name: str, **values: object) -> torch.nn.Module:
    torch.manual_seed(1)
    pairs = {"images_per_class": 2} if CONSTANTS[loss_name(name)].pairs else {}
    return build_loss(recipe_from({"loss": name, **pairs, **values}), CLASSES, WIDTH).double()


def embeddings() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(len(LABELS), WIDTH, generator=generator, dtype=torch.float64), dim=1)


def positives(i: int) -> list[int]:
    return [j for j in range(len(LABELS)) if LABELS[j] == LABELS[i] and j != i]


def negatives(i: int) -> list[int]:
    return [j for j in range(len(LABELS)) if LABELS[j] != LABELS[i]]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum().sqrt())


def proxy_nca(e: Tensor, proxies: Tensor) -> float:
    """ProxyNCA++ (Teh et al., 2020): −log of a softmax over −9 times squared proxy distances."""
    p = F.normalize(proxies, dim=1)
    found = []
    for i, label in enumerate(LABELS):
        weights = [math.exp(-9 * distance(e[i], p[c]) ** 2) for c in range(CLASSES)]
        found.append(-math.log(weights[label] / sum(weights)))
    return float(np.mean(found))


def ms(e: Tensor) -> float:
    """Multi-Similarity (Wang et al., CVPR 2019, equations 11, 12, 15): α 2, β 50, λ 0.5, ε 0.1."""
    s = (e @ e.T).tolist()
    found = []
    for i in range(len(LABELS)):
        hardest_negative, hardest_positive = max(s[i][j] for j in negatives(i)), min(s[i][j] for j in positives(i))
        pull = [s[i][j] for j in positives(i) if s[i][j] - 0.1 < hardest_negative]
        push = [s[i][j] for j in negatives(i) if s[i][j] + 0.1 > hardest_positive]
        found.append(
            math.log(1 + sum(math.exp(-2 * (x - 0.5)) for x in pull)) / 2
            + math.log(1 + sum(math.exp(50 * (x - 0.5)) for x in push)) / 50
        )
    return float(np.mean(found))


def contrastive(e: Tensor, margin: float = 0.5) -> float:
    """Hadsell et al., 2006, without squares: means of nonzero terms of like and unlike pairs."""
    like = [distance(e[i], e[j]) for i in range(len(LABELS)) for j in positives(i)]
    unlike = [margin - distance(e[i], e[j]) for i in range(len(LABELS)) for j in negatives(i)]
    return sum(float(np.mean([x for x in xs if x > 0])) if any(x > 0 for x in xs) else 0.0 for xs in (like, unlike))


def triplet(e: Tensor, margin: float = 0.2) -> float:
    """Schroff et al., CVPR 2015: negatives farther than the positive, but within the margin."""
    found = []
    for a in range(len(LABELS)):
        for p, n in itertools.product(positives(a), negatives(a)):
            gap = distance(e[a], e[n]) - distance(e[a], e[p])
            if 0 < gap <= margin:
                found.append(margin - gap)
    assert found
    return float(np.mean([x for x in found if x > 0]))


def npair(e: Tensor) -> float:
    """Sohn, 2016: for one pair of each class, the softmax over the pairs' second images."""
    pairs = []
    for label in sorted(set(LABELS)):
        i = LABELS.index(label)
        pairs.append((i, positives(i)[0]))
    found = []
    for i, (a, p) in enumerate(pairs):
        logits = [float(e[a] @ e[other]) for _, other in pairs]
        assert pairs[i][1] == p
        found.append(-logits[i] + math.log(sum(math.exp(x) for x in logits)))
    return float(np.mean(found))


def ntxent(e: Tensor) -> float:
    """Chen et al., 2020 (equation 1): per like pair, over it and all unlike; temperature 0.07."""
    s = (e @ e.T / 0.07).tolist()
    return float(
        np.mean(
            [
                -s[i][j] + math.log(math.exp(s[i][j]) + sum(math.exp(s[i][k]) for k in negatives(i)))
                for i in range(len(LABELS))
                for j in positives(i)
            ]
        )
    )


def supcon(e: Tensor) -> float:
    """Khosla et al., 2020 (equation 2), temperature 0.1."""
    s = (e @ e.T / 0.1).tolist()
    found = []
    for i in range(len(LABELS)):
        total = math.log(sum(math.exp(s[i][k]) for k in range(len(LABELS)) if k != i))
        found.append(-np.mean([s[i][j] - total for j in positives(i)]))
    return float(np.mean(found))


FORMULAS: dict[str, Callable[[Tensor], float]] = {
    "ms": ms,
    "contrastive": contrastive,
    "triplet": triplet,
    "npair": npair,
    "ntxent": ntxent,
    "supcon": supcon,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_loss_is_that_of_its_paper(name: str) -> None:
    assert float(built(name)(embeddings(), torch.tensor(LABELS))) == pytest.approx(
        FORMULAS[name](embeddings()), rel=1e-6
    )


def test_proxy_nca_is_that_of_its_paper() -> None:
    loss = built("proxy_nca")
    expected = proxy_nca(embeddings(), loss.loss.proxies.detach())
    assert float(loss(embeddings(), torch.tensor(LABELS))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "formula"), [("contrastive", contrastive), ("triplet", triplet)])
def test_margin_of_the_recipe_counts(name: str, formula: Callable[..., float]) -> None:
    given = float(built(name, margin=0.9)(embeddings(), torch.tensor(LABELS)))
    assert given == pytest.approx(formula(embeddings(), 0.9), rel=1e-6)


def test_margin_loss_is_the_mean_over_triplets_that_could_be_drawn() -> None:
    """Wu et al., ICCV 2017, β = 1.2 per class: some triplets of each anchor give the value."""
    loss = built("margin")
    e = embeddings()
    value = float(loss(e, torch.tensor(LABELS)))
    each = [
        max(distance(e[a], e[p]) - 1.2 + 0.2, 0) + max(1.2 - distance(e[a], e[n]) + 0.2, 0)
        for a in range(len(LABELS))
        for p, n in itertools.product(positives(a), negatives(a))
    ]
    assert 0 < value <= max(each)
    assert [name for name, _ in loss.named_parameters()] == ["loss.beta"]
    assert loss.loss.beta.tolist() == pytest.approx([1.2] * CLASSES)


def test_what_a_miner_draws_depends_on_the_batch_alone() -> None:
    loss = built("margin")
    first = float(loss(embeddings(), torch.tensor(LABELS)))
    torch.manual_seed(99)
    np.random.seed(99)
    state = torch.get_rng_state()
    assert float(loss(embeddings(), torch.tensor(LABELS))) == first
    assert torch.equal(torch.get_rng_state(), state)  # the global generator isn't disturbed


@pytest.mark.parametrize("name", get_args(MetricLossName))
def test_every_parameter_and_the_embeddings_have_a_gradient_even_where_the_loss_is_0(name: str) -> None:
    loss = built(name)
    apart = F.normalize(
        torch.eye(WIDTH, dtype=torch.float64)[[0, 1, 2]], dim=1
    ).requires_grad_()  # no two images of one class
    value = loss(apart, torch.tensor([0, 1, 2]))
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert apart.grad is not None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in loss.parameters())


@pytest.mark.parametrize("name", get_args(MetricLossName))
def test_under_autocast_a_loss_is_that_of_the_rounded_embeddings_in_float32(name: str) -> None:
    loss = built(name).float()
    rounded = embeddings().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(rounded, torch.tensor(LABELS))
    plain = rounded.detach().float().requires_grad_()
    expected = loss(plain, torch.tensor(LABELS))
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, expected)
    given.backward()
    expected.backward()
    torch.testing.assert_close(rounded.grad, plain.grad.bfloat16(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "published", ["Proxy_Anchor", "Proxy_NCA", "MS", "Contrastive", "Triplet", "NPair", "Margin", "NTXent"]
)
def test_names_of_the_publication_are_known(published: str) -> None:
    assert loss_name(published) in CONSTANTS


def test_unknown_loss_is_refused_with_those_known() -> None:
    with pytest.raises(InvalidInput, match=r"unknown loss 'Hinge'; name one of proxy_anchor, .*supcon"):
        loss_name("Hinge")


@pytest.mark.parametrize(
    ("loss", "value"), [("ms", "alpha"), ("contrastive", "alpha"), ("ntxent", "margin"), ("proxy_nca", "margin")]
)
def test_value_that_a_loss_does_not_have_is_refused(loss: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"the loss {loss} has no {value} .*drop it"):
        recipe_from({"loss": loss, "images_per_class": 2, value: 0.3})


@pytest.mark.parametrize("images_per_class", [None, 1])
def test_pair_loss_without_several_images_of_a_class_is_refused(images_per_class: int | None) -> None:
    with pytest.raises(InvalidInput, match="images_per_class to 2 or more"):
        recipe_from({"loss": "triplet", "images_per_class": images_per_class})
