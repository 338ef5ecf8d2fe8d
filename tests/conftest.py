"""For all tests: several of them, and other jobs, share the machine's few cores."""

from __future__ import annotations

import torch

pytest_plugins = ["tests.s3.places"]

torch.set_num_threads(1)
