"""A training step as `Training` does it, on one batch, and the variants of it that are compared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu.measure import Run
from benchmarks.gpu.models import CLASSES, dense_backbone, images_for, labels_for, objective_of, placed, recipe_of
from benchmarks.gpu.sizes import Sizes
from dfml.losses.proxy_anchor import ProxyAnchor

# By their names in figures. "tf32" and "fp32" differ in what `tf32` allows, not in the recipe.
PRECISIONS = {"bf16": "bfloat16", "tf32": "float32", "fp32": "float32"}


# The exact step in the design that isn't chosen: gathered on a GPU, masked on a CPU.
OTHER = "exact in the other design"


class TrainingStep:
    """A training step: call it to do one.

    Args:
        name: timm's name of the model.
        sizes: of batch and images.
        dense: whether to train timm's own model instead of the factorized one.
        values: of the recipe.

    Attributes:
        update: whether a step clips gradients and updates weights.
    """

    def __init__(self, name: str, sizes: Sizes, device: torch.device, dense: bool = False, **values: object) -> None:
        self.recipe = recipe_of(name, sizes.image, **values)
        self.images = images_for(name, sizes.batch, sizes.image, device)
        self.labels = labels_for(sizes.batch, device)
        self.dense = dense
        self.update = True
        self.module = placed(_dense_module(name, sizes.image) if dense else objective_of(self.recipe), device)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-6)

    def __call__(self) -> None:
        loss = self._loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.update:
            nn.utils.clip_grad_value_(self.module.parameters(), 10.0)
            self.optimizer.step()

    def set_precision(self, name: str) -> None:
        """Compute in a precision of `PRECISIONS` from now on."""
        self.recipe = self.recipe.model_copy(update={"precision": PRECISIONS[name]})
        if not self.dense:
            self.module.model.recipe = self.recipe

    def kept_bytes(self) -> int:
        """Return the memory of the weights and of the optimizer's state."""
        weights = sum(p.numel() * p.element_size() for p in self.module.parameters())
        # AdamW has two moments of each weight.
        return 3 * weights

    def _loss(self) -> Tensor:
        if not self.dense:
            return self.module(self.images, self.labels)["loss"]
        half = self.recipe.precision == "bfloat16"
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=half):
            features = self.module["backbone"](self.images)
        return self.module["loss"](F.normalize(features.float(), dim=-1), self.labels)


def _dense_module(name: str, image: int) -> nn.Module:
    backbone = dense_backbone(name, image)
    modules = {"backbone": backbone, "loss": ProxyAnchor(CLASSES, int(backbone.num_features))}
    return nn.ModuleDict(modules).train()


def variants(name: str, sizes: Sizes, device: torch.device) -> tuple[TrainingStep, TrainingStep, dict[str, Run]]:
    """Return the dense step, the factorized step, and the runs that are compared, by name.

    All but "dense" are runs of the one factorized model. "exact" and "sparse" use the design that
    it chooses; OTHER is the exact step in the other one.
    """
    dense = TrainingStep(name, sizes, device, dense=True)
    ours = TrainingStep(name, sizes, device)
    backbone = ours.module.model.backbone

    def exact() -> None:
        backbone.sparse = False
        ours()

    def sparse() -> None:
        backbone.sparse = True
        ours()
        backbone.sparse = False

    def other() -> None:
        backbone.design = "gathered" if device.type == "cuda" else "masked"
        exact()
        backbone.design = None

    return dense, ours, {"dense": dense, "exact": exact, "sparse": sparse, OTHER: other}


@contextlib.contextmanager
def without_update(*steps: TrainingStep) -> Iterator[None]:
    """Let steps end with the backward pass."""
    for step in steps:
        step.update = False
    try:
        yield
    finally:
        for step in steps:
            step.update = True


def peak_memory(run: Run, step: TrainingStep) -> int:
    """Return the bytes that a run of `step` needs at most, its weights and moments among them."""
    run()
    step.optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    step.optimizer.zero_grad(set_to_none=True)
    return peak - before + step.kept_bytes()
