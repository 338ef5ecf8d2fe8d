"""How much memory a trial's workers use, and less of it after memory ran out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dfml.recipe import Recipe
from orchestration.trials.failure import Memory
from orchestration.trials.memory import MemoryUse, memory_use, store
from tests.plans import job_of


def steps(use: MemoryUse, memory: Memory, images: int) -> list[tuple[int, int]]:
    """Return parts and processes of each attempt after the first."""
    found = []
    while less := use.less(memory, images):
        use = less
        found.append((use.parts, use.loader_workers))
    return found


def test_the_gpus_memory_is_saved_by_more_parts_until_each_is_one_image() -> None:
    assert steps(MemoryUse(parts=1, loader_workers=4), "GPU", 6) == [(2, 4), (4, 4), (6, 4)]
    assert steps(MemoryUse(parts=6, loader_workers=4), "GPU", 6) == []


def test_the_hosts_memory_is_saved_by_fewer_processes_first() -> None:
    assert steps(MemoryUse(parts=2, loader_workers=5), "host", 4) == [(2, 2), (2, 1), (2, 0), (4, 0)]


@pytest.mark.parametrize("images", range(1, 130))
def test_each_attempt_has_fewer_images_in_memory_and_the_last_has_one(images: int) -> None:
    for parts in range(1, images + 2):
        tried = [(parts, 0), *steps(MemoryUse(parts=parts, loader_workers=0), "GPU", images)]
        # As `torch.chunk` divides.
        largest = [math.ceil(images / n) for n, _ in tried]
        assert largest == sorted(set(largest), reverse=True)
        assert largest[-1] == 1


@pytest.mark.parametrize(("gpus", "processes"), [(1, 2), (0, 0)])
def test_a_job_decides_until_memory_runs_out(tmp_path: Path, gpus: float, processes: int) -> None:
    job = job_of(recipe=Recipe(gradient_accumulation=2), sweep=str(tmp_path), cpus=3, gpus=gpus)
    assert memory_use(job) == MemoryUse(parts=2, loader_workers=processes)
    less = MemoryUse(parts=8, loader_workers=1)
    store(job, less)
    assert memory_use(job) == less
    assert memory_use(job_of(number=1, sweep=str(tmp_path))).parts == 1


def test_what_has_changed_is_said() -> None:
    use = MemoryUse(parts=1, loader_workers=1)
    assert MemoryUse(parts=2, loader_workers=1).since(use) == "each batch is now computed in 2 parts"
    assert MemoryUse(parts=1, loader_workers=3).since(use) == "images are now decoded by 3 processes per worker"
    assert MemoryUse(parts=1, loader_workers=0).since(use) == "images are now decoded by the workers themselves"


@pytest.mark.parametrize(("gpus", "cpus", "processes"), [(1, 8, 7), (0.5, 2, 1), (1, 1, 1), (0, 8, 0), (0, 1, 0)])
def test_a_worker_with_a_gpu_keeps_a_core_for_launching_kernels(gpus: float, cpus: int, processes: int) -> None:
    assert job_of(gpus=gpus, cpus=cpus).settings.loader_workers == processes
