"""Deep Factorized Metric Learning: the method and its data pipeline, in plain PyTorch.

`factorized/` holds the model, `objective.py` the loss, `train/` the training loop, and `data/` the
pipeline from images to batches. Only `orchestration/` imports Ray, Optuna and wandb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfml.factorized import factorize
    from dfml.saved_model import load

__all__ = ["factorize", "load"]


def __getattr__(name: str) -> Any:
    # Imported on first use: importing torch takes seconds, and `dfml.recipe` doesn't need it.
    if name == "factorize":
        from dfml.factorized import factorize

        return factorize
    if name == "load":
        from dfml.saved_model import load

        return load
    raise AttributeError(f"module 'dfml' has no attribute {name!r}")
