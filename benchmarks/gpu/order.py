"""All checks, in the order in which they run.

What matters most comes first: the checks for which no time is left are named, and can be run with
`--only`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.gpu.checks.compilation import check_compile
from benchmarks.gpu.checks.designs import check_designs
from benchmarks.gpu.checks.distributed import check_distributed
from benchmarks.gpu.checks.environment import check_environment
from benchmarks.gpu.checks.gradients import check_gradients
from benchmarks.gpu.checks.inference import check_inference
from benchmarks.gpu.checks.metrics import check_clustering, check_metrics
from benchmarks.gpu.checks.paths import check_full_path, check_routed_path
from benchmarks.gpu.checks.pipeline import check_pipeline
from benchmarks.gpu.checks.saved_models import check_embed, check_export
from benchmarks.gpu.checks.steps import check_base_steps, check_cnn_steps, check_small_steps
from benchmarks.gpu.checks.syncs import check_syncs
from benchmarks.gpu.checks.training import check_train_emoji, check_train_photos
from benchmarks.gpu.context import Context


class Check(NamedTuple):
    """A check, and the most seconds that it may take on a GPU."""

    run: Callable[[Context], None]
    seconds: float


CHECKS = {
    "environment": Check(check_environment, 30),
    "full_path": Check(check_full_path, 45),
    "routed_path": Check(check_routed_path, 45),
    "gradients": Check(check_gradients, 75),
    "steps_small": Check(check_small_steps, 60),
    "syncs": Check(check_syncs, 30),
    "distributed": Check(check_distributed, 75),
    "pipeline": Check(check_pipeline, 60),
    "train_photos": Check(check_train_photos, 90),
    "train_emoji": Check(check_train_emoji, 60),
    "steps_base": Check(check_base_steps, 70),
    "steps_cnn": Check(check_cnn_steps, 70),
    "inference": Check(check_inference, 45),
    "compile": Check(check_compile, 110),
    "metrics": Check(check_metrics, 60),
    "embed": Check(check_embed, 45),
    "designs": Check(check_designs, 25),
    "export": Check(check_export, 80),
    "clustering": Check(check_clustering, 60),
}
USE_PHOTOS = {"pipeline", "train_photos", "embed"}
