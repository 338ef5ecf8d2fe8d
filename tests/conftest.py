"""For all tests: several of them, and other jobs, share the machine's few cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
