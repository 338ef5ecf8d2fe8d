"""Options for speed, memory and routers: results are unchanged, or change as documented."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfml.data.streaming.loader import Loader
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.embedding_model import build_model
from dfml.evaluate import embed
from dfml.factorized.backbone import FactorizedBlock
from dfml.objective import Objective
from dfml.recipe import recipe_from
from tests.dfml.conftest import TINY

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 1, 3, 0, 3, 1])
VIT = {
    "backbone": "test_vit",
    "weights": "random",
    "image_size": 32,
    "num_sub_blocks": 2,
    "blocks": "0,2-3",
    "embedding_reconstruction": 0.5,
    "stream_reconstruction": 0.05,
}


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


def objective(**options: object) -> Objective:
    torch.manual_seed(0)
    return Objective(build_model(recipe_from({**VIT, **options})), classes=5).train()


def loss_and_gradients(objective: Objective, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    terms = objective(images, LABELS)
    terms["loss"].backward()
    return (
        {name: term.detach() for name, term in terms.items()},
        {name: p.grad for name, p in objective.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("options", [{"gradient_accumulation": 3}, {"activation_checkpointing": True}], ids=str)
def test_option_that_saves_memory_changes_no_loss_and_no_gradient(options: dict[str, object]) -> None:
    expected = loss_and_gradients(objective().double(), images())
    given = loss_and_gradients(objective(**options).double(), images())
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-12)


def test_a_set_is_embedded_in_smaller_batches_if_it_is_trained_in_parts(train_images: ShardedImages) -> None:
    subset = subset_of_classes(train_images)
    model = build_model(recipe_from(TINY))
    sizes: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = []
    for parts in (1, 16):
        with Loader(recipe_from({**TINY, "gradient_accumulation": parts}), [subset]) as loader:
            found.append(embed(model.eval(), subset, model.normalization, CPU, loader))
    assert sizes == [35, 8, 8, 8, 8, 3]
    torch.testing.assert_close(*found)


@pytest.mark.integration
def test_compiled_training_has_the_same_loss_and_gradients() -> None:
    expected = loss_and_gradients(objective(), images(torch.float32))
    given = loss_and_gradients(objective(compile=True), images(torch.float32))
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5)


def test_bfloat16_gives_the_loss_and_the_direction_of_the_gradient_to_its_precision() -> None:
    terms, expected = loss_and_gradients(objective(), images(torch.float32))
    half_terms, given = loss_and_gradients(objective(precision="bfloat16"), images(torch.float32))
    assert half_terms["loss"].dtype == torch.float32
    assert float(half_terms["loss"]) == pytest.approx(float(terms["loss"]), rel=0.01)
    assert float(half_terms["loss"]) != float(terms["loss"])
    assert all(gradient.dtype == torch.float32 for gradient in given.values())
    joined, truth = (torch.cat([g.flatten() for g in grads.values()]) for grads in (given, expected))
    assert float(torch.nn.functional.cosine_similarity(joined, truth, dim=0)) > 0.98


def test_without_weight_on_the_routed_path_only_the_full_path_is_trained() -> None:
    trained = objective(routed_weight=0.0)
    trained.set_warm_up(False)
    terms, gradients = loss_and_gradients(trained, images(torch.float32))
    assert set(terms) == {"loss", "loss_full"}
    assert gradients
    # DistributedDataParallel waits for every parameter with requires_grad.
    assert set(gradients) == {name for name, p in trained.named_parameters() if p.requires_grad}
    assert not any("router." in name for name in gradients)


def test_blocks_not_named_stay_dense() -> None:
    blocks = build_model(recipe_from(VIT)).backbone.blocks
    assert [i for i, block in enumerate(blocks) if isinstance(block, FactorizedBlock)] == [0, 2, 3]


def test_temperature_reaches_every_router() -> None:
    routers = build_model(recipe_from({**VIT, "router_temperature": 2.5})).backbone.routers()
    assert [router.temperature for router in routers] == [2.5] * 6


def test_balance_term_is_the_switch_transformers() -> None:
    balanced = objective(balance_weight=0.3).double()
    inputs: list[Tensor] = []
    hooks = [r.register_forward_hook(lambda _, z, __: inputs.append(z[0])) for r in balanced.model.backbone.routers()]
    terms = balanced(images(), LABELS)
    for hook in hooks:
        hook.remove()
    expected = torch.zeros((), dtype=torch.float64)
    for router, z in zip(balanced.model.backbone.routers(), inputs, strict=True):
        p = torch.softmax(z.flatten(0, -2) @ router.weight.T, dim=1)
        share = torch.stack([(p.argmax(1) == k).double().mean() for k in range(2)])
        expected = expected + 2 * (share * p.mean(0)).sum() / len(inputs)
    torch.testing.assert_close(terms["load_balance"], expected)
    plain = objective().double()(images(), LABELS)["loss"]
    torch.testing.assert_close(terms["loss"], plain + 0.3 * expected)
    weights = [router.weight for router in balanced.model.backbone.routers()]
    given = torch.autograd.grad(terms["load_balance"], weights, retain_graph=True)
    torch.testing.assert_close(given, torch.autograd.grad(expected, weights))


@pytest.mark.parametrize("blocks", ["", "first", "3-", "1;2"])
def test_blocks_that_are_no_numbers_are_refused(blocks: str) -> None:
    with pytest.raises(ValueError, match="6-11"):
        recipe_from({**VIT, "blocks": blocks})
