"""The gathered and the masked design: the same loss and gradients; the masked one never waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import timm
import torch
from backbones import BACKBONES, ROUTERS, lite0
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F

from dfml import factorize
from dfml.embedding_model import build_model
from dfml.factorized import BothPaths, FactorizedBackbone
from dfml.factorized.router import linear_operator
from dfml.losses.proxy_anchor import ProxyAnchor
from dfml.objective import Objective
from dfml.recipe import recipe_from

BUILDERS: dict[str, Callable[[], nn.Module]] = {**BACKBONES, "EfficientNet-Lite0": lite0}


def decided(name: str) -> FactorizedBackbone:
    """Return a factorized backbone in float64 with decided routers and unequal biases."""
    torch.manual_seed(4)
    backbone = factorize(BUILDERS[name](), ROUTERS.get(name, 3)).double()
    with torch.no_grad():
        for parameter_name, parameter in backbone.named_parameters():
            if "router." in parameter_name or parameter_name.endswith("_sum.bias"):
                parameter.copy_(torch.randn_like(parameter))
    return backbone


def scalar_of(both: BothPaths) -> Tensor:
    """Return a scalar on which every output of both paths has an effect."""
    generator = torch.Generator().manual_seed(7)
    outputs = (both.full, both.routed, both.routing.probability)
    slopes = [torch.randn(output.shape, generator=generator, dtype=output.dtype) for output in outputs]
    return sum(((output * slope).sum() for output, slope in zip(outputs, slopes, strict=True)), 0.3 * both.distance)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize("sparse", [False, True], ids=["exact", "sparse"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.integration] if name == "EfficientNet-Lite0" else []) for name in BUILDERS],
)
def test_both_designs_are_the_same_to_1e_12(name: str, sparse: bool, checkpointing: bool) -> None:
    backbone = decided(name)
    backbone.sparse, backbone.checkpointing = sparse, checkpointing
    images = torch.randn(3, 3, 32 if "iT" in name else 64, 32 if "iT" in name else 64, dtype=torch.float64)
    images.requires_grad_()
    found = []
    for design in ("gathered", "masked"):
        backbone.design = design
        both = backbone(images, "both")
        values = [both.full, both.routed, both.distance, *both.routing]
        gradients = torch.autograd.grad(scalar_of(both), [images, *backbone.parameters()], allow_unused=True)
        found.append([*values, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)])
    for gathered, masked in zip(*found, strict=True):
        assert float((gathered - masked).detach().norm()) <= 1e-12 * max(1.0, float(gathered.detach().norm()))


def objective_of(backbone: str, side: int, design: str | None, **values: object) -> Objective:
    recipe = recipe_from({"backbone": backbone, "weights": "random", "image_size": side, **values})
    objective = Objective(build_model(recipe), 10).train()
    objective.model.backbone.design = design  # type: ignore[assignment]
    return objective


@pytest.mark.parametrize("sparse", [False, True], ids=["exact", "sparse"])
@pytest.mark.parametrize(("backbone", "side"), [("test_vit", 160), ("test_resnet", 160), ("tf_efficientnet_lite0", 64)])
def test_a_masked_step_reads_no_value_for_which_a_gpus_host_would_wait(backbone: str, side: int, sparse: bool) -> None:
    """Fake tensors have shapes and no values; an operator that needs a value is an error."""
    values = {"num_sub_blocks": 2, "precision": "bfloat16", "sparse_training": sparse, "balance_weight": 0.1}

    def step(design: str) -> None:
        objective = objective_of(backbone, side, design, **values)
        fake = FakeTensorMode()
        state = {n: fake.from_tensor(t) for n, t in [*objective.named_parameters(), *objective.named_buffers()]}
        inputs = fake.from_tensor(torch.randn(4, 3, side, side)), fake.from_tensor(torch.arange(4))
        with fake:
            functional_call(objective, state, inputs)["loss"].backward()

    step("masked")
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        step("gathered")


@pytest.mark.parametrize(("backbone", "side"), [("test_vit", 160), ("test_resnet", 64), ("tf_efficientnet_lite0", 64)])
def test_a_masked_block_is_compiled_as_one_graph(backbone: str, side: int) -> None:
    model = objective_of(backbone, side, None, num_sub_blocks=2).model.backbone
    with torch.no_grad():
        x = model.stem(torch.randn(2, 3, side, side))
    found = torch._dynamo.explain(model.blocks[0].masked)(torch.cat([x, x]), False)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def test_the_operator_that_forbids_tf32_is_known_to_torch() -> None:
    z, weight = torch.randn(7, 8), torch.randn(3, 8)
    torch.library.opcheck(linear_operator, (z, weight))
    assert torch.equal(linear_operator(z, weight), F.linear(z, weight))


def test_on_a_cpu_gathering_is_the_design_of_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = decided("ViT, class token")
    for block in backbone.blocks:
        monkeypatch.setattr(block, "masked", None)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert isinstance(backbone(images, "both"), BothPaths)


@pytest.mark.parametrize("name", BACKBONES)
@torch.inference_mode()
def test_routed_inference_with_static_shapes_is_the_same(name: str) -> None:
    """In float32, as torch has no grouped product in float64."""
    backbone = decided(name).float().eval()
    images = torch.randn(3, 3, 64, 64)[..., : 32 if "iT" in name else 64, : 32 if "iT" in name else 64]
    found = []
    for static in (False, True):
        backbone.static = static
        found.append(backbone(images, "routed"))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backbone", "side"), [("test_vit", 160), ("test_resnet", 160)])
@torch.inference_mode()
def test_routed_inference_with_static_shapes_reads_no_value(backbone: str, side: int) -> None:
    model = objective_of(backbone, side, None, num_sub_blocks=2).model.backbone.eval()
    fake = FakeTensorMode()
    state = {n: fake.from_tensor(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    images = fake.from_tensor(torch.randn(4, 3, side, side))
    for static in (True, False):
        model.static = static
        refusal = contextlib.nullcontext() if static else pytest.raises(DynamicOutputShapeException)
        with refusal, fake, torch.autocast("cpu", torch.bfloat16):
            functional_call(model, state, (images, "routed"))


@pytest.mark.integration
def test_a_masked_step_in_bf16_calls_at_most_two_and_a_half_times_the_operators_of_a_dense_one() -> None:
    """ViT-S; launching a kernel takes a GPU's host longer than a small kernel takes."""
    # Here, as the examples of docs/extending.md have no benchmarks.
    from benchmarks.gpu.profiling import OperatorCounter

    name, images, labels = "vit_small_patch16_224", torch.randn(2, 3, 32, 32), torch.arange(2)
    dense = timm.create_model(name, num_classes=0, img_size=32)
    loss = ProxyAnchor(10, dense.num_features)
    ours = objective_of(name, 32, "masked", num_sub_blocks=3, precision="bfloat16")

    def dense_step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            features = dense(images)
        loss(F.normalize(features.float(), dim=-1), labels).backward()

    counts = []
    for step in (dense_step, lambda: ours(images, labels)["loss"].backward()):
        step()
        with OperatorCounter() as operators:
            step()
        counts.append(operators.count)
    assert counts[1] <= 2.5 * counts[0], counts
