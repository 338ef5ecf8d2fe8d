"""How much memory a trial's workers use, and less of it after memory ran out.

A batch computed in more parts has the same loss and gradients (`Objective` in dfml/objective.py),
and takes longer. The numbers are stored as `memory.json` in the trial's folder. Workers read them
when they start, also after the loss of the trial's own process and in later sessions of the sweep.
"""

from __future__ import annotations

from dfml import storage
from dfml.strict_model import StrictModel
from orchestration.job import TrialJob
from orchestration.sweep_folder import layout
from orchestration.trials.failure import Memory


class MemoryUse(StrictModel):
    """The numbers that decide how much memory a worker needs.

    Attributes:
        parts: parts of a worker's share of a batch; one at a time is in memory.
        loader_workers: processes per worker that decode and augment; 0: the worker itself does.
    """

    parts: int
    loader_workers: int

    def less(self, memory: Memory, images: int) -> MemoryUse | None:
        """Return the numbers to try after memory ran out; None if nothing is left to try.

        Args:
            memory: the memory that ran out.
            images: the images of a batch on each worker.
        """
        if memory == "host" and self.loader_workers > 0:
            return MemoryUse(parts=self.parts, loader_workers=self.loader_workers // 2)
        if self.parts < images:
            return MemoryUse(parts=min(2 * self.parts, images), loader_workers=self.loader_workers)
        return None

    def since(self, before: MemoryUse) -> str:
        """Return a phrase on what has changed."""
        if self.parts != before.parts:
            return f"each batch is now computed in {self.parts} parts"
        if self.loader_workers:
            return f"images are now decoded by {self.loader_workers} processes per worker"
        return "images are now decoded by the workers themselves"


def memory_use(job: TrialJob) -> MemoryUse:
    """Return the numbers for a trial's next workers: the stored ones, else those of its job."""
    uri = _uri(job)
    if storage.exists(uri):
        return MemoryUse.model_validate_json(storage.read(uri))
    return MemoryUse(parts=job.recipe.gradient_accumulation, loader_workers=job.settings.loader_workers)


def store(job: TrialJob, use: MemoryUse) -> None:
    """Store the numbers for a trial's next workers."""
    storage.write(_uri(job), use.model_dump_json().encode())


def _uri(job: TrialJob) -> str:
    return storage.join(job.uri, layout.MEMORY)
