"""Deep Factorized Metric Learning: the method and its data, in plain PyTorch.

`factorized/` holds the model, `objective.py` the equation, `train/` the loop, `data/` the way from images to batches.
Nothing here imports Ray, Optuna or wandb; `orchestration/` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfml.checkpoint import load
    from dfml.factorized import factorize

__all__ = ["factorize", "load"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `dfml.recipe` and the like must not cost the seconds that importing torch takes.
    if name == "factorize":
        from dfml.factorized import factorize

        return factorize
    if name == "load":
        from dfml.checkpoint import load

        return load
    raise AttributeError(f"module 'dfml' has no attribute {name!r}")
