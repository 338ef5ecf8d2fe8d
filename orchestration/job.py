"""The job of a trial: all values that its processes need, in a form that Ray can send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dfml import storage
from dfml.protocol import ProtocolName
from dfml.recipe import Recipe
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import Kind, TrialRecord

JOB = "job"  # the only key of a trial's configuration in Ray


@dataclass(frozen=True)
class SweepSettings:
    """Settings that all trials of a sweep share.

    Attributes:
        sweep: the sweep's folder or URI.
        labels: the labels of all its metrics, `sweep` and `dataset`.
        data: folder or URI of the packed data set.
        protocol: the protocol (see `dfml.protocol`).
        seed: the seed that decides which classes or images are held out.
        workers: workers per trial.
        min_workers: fewest workers a trial may continue with after losing a node.
        cpus: CPU cores per worker.
        gpus: GPUs per worker, a fraction if trials share one; 0 on CPUs.
        cache_dir: folder on each node for shards from S3; None: the node's default.
        cache_size: the cache's largest size in bytes on each node; None: no limit.
        checkpoint_steps: steps between mid-epoch checkpoints.
        deterministic: whether GPUs compute the same bits from the same seed, with slower
            algorithms.
    """

    sweep: str
    labels: dict[str, str] = field(default_factory=dict)
    data: str = ""
    protocol: ProtocolName = "holdout"
    seed: int = 0
    workers: int = 1
    min_workers: int = 1
    cpus: int = 1
    gpus: float = 0
    cache_dir: str | None = None
    cache_size: int | None = None
    checkpoint_steps: int = 1000
    deterministic: bool = False

    @property
    def loader_workers(self) -> int:
        """Return the processes per worker that decode and augment images; 0: the worker does.

        With a GPU, the CPU cores decode, but for one, which launches the GPU's work. Without a GPU
        they train, and decoding is little work by comparison.
        """
        return max(1, self.cpus - 1) if self.gpus else 0


@dataclass(frozen=True)
class TrialJob:
    """A trial of the search.

    Attributes:
        settings: settings that all trials of the sweep share.
        number: number of its record.
        parameters: parameters of its record.
        recipe: the recipe to train.
        epochs: epochs to train.
        flops: FLOPs of its record.
        kind: kind of its record.
    """

    settings: SweepSettings
    number: int
    parameters: dict[str, Any]
    recipe: Recipe
    epochs: int
    flops: float | None = None
    kind: Kind = "trial"

    def record(self) -> TrialRecord:
        """Return a new record of this trial."""
        return TrialRecord(
            kind=self.kind, number=self.number, parameters=self.parameters, recipe=self.recipe, flops=self.flops
        )

    @property
    def folder(self) -> str:
        """Return the name of the trial's folder."""
        return self.record().folder

    @property
    def uri(self) -> str:
        """Return the trial's folder or URI."""
        return storage.join(self.settings.sweep, layout.TRIALS, self.folder)

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels of the trial's metrics."""
        return {**self.settings.labels, "trial": self.record().label}


@dataclass(frozen=True)
class WinnerJob(TrialJob):
    """A run of the winner on all training classes, scored on the test classes.

    Attributes:
        winner: number of the winning trial.
        trained: folder or URI of the trial if its training was exactly this run's; else None.
        first: whether the sweep's model is this run's.
        facts: entries of the model's `config.json`.
    """

    kind: Kind = "winner"
    winner: int = 0
    trained: str | None = None
    first: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


def config_of(job: TrialJob) -> dict[str, Any]:
    """Return a job as the configuration that Ray Tune or Ray Train takes."""
    return {JOB: job}


def job_in(config: dict[str, Any]) -> TrialJob:
    """Return the job in a configuration; for a run of the winner it is a `WinnerJob`."""
    job: TrialJob = config[JOB]
    return job
