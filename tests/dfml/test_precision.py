"""The precision of products: what a recipe asks for, and where TF32 is allowed, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.embedding_model import build_model
from dfml.metrics import retrieval_metrics
from dfml.precision import autocast, in_training, inference, tf32
from dfml.recipe import PrecisionName, Recipe, recipe_from
from dfml.train import Training
from tests.dfml.conftest import TINY

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MATMUL, CONV = torch.backends.cuda.matmul, torch.backends.cudnn
# With widths by which calls are told apart: K, the classes, and D.
VIT = {**TINY, "backbone": "test_vit", "num_sub_blocks": 2, "embedding_size": 11, "epochs": 1, "warm_epochs": 0}


def allowed() -> tuple[bool, bool]:
    return MATMUL.fp32_precision == "tf32", CONV.conv.fp32_precision == "tf32"


@pytest.fixture(autouse=True)
def torchs_defaults() -> Iterator[None]:
    """Check that each test, however it goes, leaves torch's own settings."""
    assert allowed() == (False, True)
    yield
    assert allowed() == (False, True)


class Call(NamedTuple):
    name: str
    shape: tuple[int, ...]  # of its result
    tf32: tuple[bool, bool]


class Products(TorchDispatchMode):
    """Record each matrix product and convolution, and whether a GPU might use TF32 for it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "convolution", "convolution_backward"):
            first = found if isinstance(found, torch.Tensor) else next(one for one in found if one is not None)
            self.calls.append(Call(name, tuple(first.shape), allowed()))
        return found


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("float32", {(CPU, False): "float32", (GPU, False): "float32", (GPU, True): "float32"}),
        ("bfloat16", {(CPU, False): "bfloat16", (GPU, False): "bfloat16", (GPU, True): "bfloat16"}),
        ("auto", {(CPU, True): "float32", (GPU, False): "float32", (GPU, True): "bfloat16"}),
    ],
)
def test_a_recipes_precision_on_a_device_that_may_have_bfloat16(
    precision: PrecisionName, expected: dict[tuple[torch.device, bool], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (device, has_it), name in expected.items():

        def supported(including_emulation: bool = True, has_it: bool = has_it) -> bool:
            # With emulation every GPU has it.
            return including_emulation or has_it

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert in_training(precision, device) == name


def test_auto_trains_on_a_cpu_as_float32_does(train_images: ShardedImages) -> None:
    subset = subset_of_classes(train_images, np.arange(5))
    runs = [Training(recipe_from({**VIT, "precision": name}), subset, None, CPU) for name in ("float32", "auto")]
    first, second = (next(run.epochs())["loss"] for run in runs)
    assert first == second
    assert [run.precision for run in runs] == ["float32", "float32"]


def test_tf32_is_as_before_after_nesting_and_errors() -> None:
    with tf32(allowed=True):
        assert allowed() == (True, True)
        with tf32(allowed=False):
            assert allowed() == (False, False)
        assert allowed() == (True, True)
        with pytest.raises(KeyError), tf32(allowed=False):
            raise KeyError
        assert allowed() == (True, True)


def test_tf32_can_be_set_though_only_torchs_newer_name_was() -> None:
    """The older name can't be read then."""
    MATMUL.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):
            _ = MATMUL.allow_tf32
        with tf32(allowed=False):
            assert allowed() == (False, False)
        assert allowed() == (True, True)
    finally:
        MATMUL.allow_tf32 = False


def test_a_step_may_use_tf32_but_for_routers_and_losses(train_images: ShardedImages) -> None:
    subset = subset_of_classes(train_images, np.arange(5))
    training = Training(recipe_from(VIT), subset, None, CPU)
    # A width that no block has.
    assert training.objective.metric_loss.proxies.shape == (5, 11)
    router = training.model.backbone.routers()[0]
    seen: list[Call] = []

    def of_routers(*_: Any) -> None:
        seen.extend(products.calls[-1:])

    for each in training.model.backbone.routers():
        each.register_forward_hook(of_routers)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8) % 5
    training.objective.train().set_warm_up(False)
    with Products() as products:
        training.train_step(training.objective, images, labels)
    assert len(seen) == len(training.model.backbone.routers())
    assert {(call.shape[-1], call.tf32) for call in seen} == {(len(router.weight), (False, False))}
    losses = [call for call in products.calls if call.shape == (8, 5)]
    # The full path's and the routed path's.
    assert [call.tf32 for call in losses] == [(False, False)] * 2
    others = [call for call in products.calls if call not in seen and call not in losses]
    assert {call.tf32 for call in others} == {(True, True)}
    assert {"convolution", "convolution_backward", "mm", "addmm"} <= {call.name for call in others}


def test_cosines_of_the_metrics_never_use_tf32() -> None:
    embeddings = torch.nn.functional.normalize(torch.rand(40, 6), dim=1)
    with tf32(allowed=True), Products() as products:
        retrieval_metrics(embeddings, torch.arange(40) % 7)
    assert {call.tf32 for call in products.calls} == {(False, False)}


def test_inference_sets_the_precision_on_gpus_alone() -> None:
    with inference("float32", CPU):
        assert allowed() == (False, True)
    with inference("float32", GPU):
        assert allowed() == (True, True)
        assert not torch.is_autocast_enabled("cuda")
    with inference("bfloat16", CPU):
        assert not torch.is_autocast_enabled("cpu")
    with autocast("bfloat16", CPU):
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("loss", ["proxy_anchor", "cross_entropy"])
def test_results_of_a_model_are_float32(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in bfloat16, which is used on a CPU here in place of a GPU."""
    # A backbone, or a head, whose last operation is a product.
    backbone = "test_resnet" if loss == "cross_entropy" else "test_vit"
    size = None if loss == "cross_entropy" else 11
    values = {**VIT, "loss": loss, "backbone": backbone, "embedding_size": size, "precision": "bfloat16"}
    model = build_model(Recipe.model_validate(values), class_names=["a", "b", "c"]).eval()
    images = torch.rand(2, 3, 32, 32)
    run = model.logits if loss == "cross_entropy" else model
    expected = run(images)
    monkeypatch.setattr("dfml.embedding_model.inference", autocast)
    given = run(images)
    assert given.dtype == torch.float32
    assert not torch.equal(given, expected)
    torch.testing.assert_close(given, expected, rtol=0.1, atol=0.05)
