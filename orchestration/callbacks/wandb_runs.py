"""Weights & Biases: one group per sweep, one run per trial and per run of the winner.

The driver writes all of them in one thread: a slow or unreachable server delays no trial, a
stopped trial loses nothing, and no worker gets the API key. (Ray's own callback starts a process
per trial and passes it the key.)
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import shlex
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from dfml import storage
from dfml.command_line import INTERRUPTED
from dfml.errors import one_line
from orchestration.callback import Tracker
from orchestration.callbacks.console import Console
from orchestration.job import SweepSettings
from orchestration.plan import Plan
from orchestration.sweep_file import SweepFile
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import Kind, TrialRecord, describe

if TYPE_CHECKING:
    import wandb

PROJECT = "dfml"  # unless WANDB_PROJECT names another
# Time for a run to start, and for a trial's run to finish; data that aren't uploaded by then stay
# on disk, for `wandb sync`.
RUN_TIMEOUT_SECONDS = 30.0
UPLOAD_TIMEOUT_SECONDS = 300.0  # time for the winner's run to finish, which uploads the model
BEST_FILES = ("model.safetensors", "config.json", "README.md")
TAG = 64  # characters that W&B allows


class WandbRuns(Tracker):
    """Write a sweep's runs to Weights & Biases.

    The end of the block waits until everything is written; after an interruption, for half a
    minute at most. After a failure the sweep continues without Weights & Biases.

    Args:
        plan: the sweep's plan.
        sweep: the sweep's folder or URI. The files are stored in its `wandb/` if it is a folder,
            else in the `wandb/` of WANDB_DIR or of the current folder.
        mode: the mode of W&B.
        console: the console for the address and for a warning after a failure.
    """

    name = "wandb"

    def __init__(self, plan: Plan, sweep: str, mode: Literal["online", "offline"], console: Console) -> None:
        self._plan = plan
        self._workers = plan.workers_per_trial
        self._sweep = sweep
        self._mode = mode
        self._console = console
        self._directory = os.environ.get("WANDB_DIR", ".") if "://" in sweep else sweep
        self._runs: dict[str, wandb.Run] = {}  # open runs, by the record's folder
        self._over: set[str] = set()  # folders of ended records
        self._failed = False
        self._url: str | None = None
        self._left: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon thread: a server that doesn't answer must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)

    @cached_property
    def group(self) -> str:
        """Return the runs' group, with which their ids begin: a resumed sweep finds its runs again.

        The sweep's folder must exist. A sweep of the same name in another folder, or started
        afresh, has another group.
        """
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", self._plan.name)[:64]
        stored = SweepFile.load(self._sweep)
        identity = f"{self._sweep} {stored.created if stored else None}"
        return f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    @property
    def where(self) -> str:
        """Return the URL of the runs, or the command that uploads them."""
        files = f"{shlex.quote(storage.join(self._directory, 'wandb'))}/*run-*-{self.group}-*"
        if self._failed:
            return f"incomplete after a failure; its files: {files}"
        if self._mode == "online":
            return self._url or f"group {self.group}"
        return f"offline; to upload: wandb login, then wandb sync {files}"

    def sweep_started(self, settings: SweepSettings) -> None:
        # The cluster decides the number of workers if the plan leaves it open.
        self._workers = settings.workers
        self._console.print(f"Weights & Biases: {self.where}")

    def trial_started(self, record: TrialRecord) -> None:
        self._do(self._open, record.folder, record.kind, *self._described(record))

    def epoch_ended(self, record: TrialRecord, last: int) -> None:
        self._do(self._log, record.folder, dict(record.epochs[-1]))

    def trial_ended(self, record: TrialRecord) -> None:
        summary = {
            "ended": record.state,
            "reason": record.reason,
            "cpu_hours": record.cpu_hours,
            "gpu_hours": record.gpu_hours,
            "s3_bytes": record.s3_bytes,
            "restarts": record.restarts,
            "parts": record.parts,
            "loader_workers": record.loader_workers,
        }
        known = {name: value for name, value in summary.items() if value is not None}
        self._do(self._end, record.folder, record.kind, *self._described(record), known)

    def sweep_ended(self, record: TrialRecord, test: dict[str, float], pictures: Sequence[str]) -> None:
        """Log the test scores, the report, its pictures and the model to the winner's run."""
        self._do(self._conclude, record.folder, record.kind, *self._described(record), test, pictures)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is written; runs that are still open were interrupted."""
        self._do(self._finish_all)
        self._left.put(None)
        if kind is None:
            self._thread.join()
            return
        self._thread.join(RUN_TIMEOUT_SECONDS / 10)
        if self._thread.is_alive():
            self._console.print(f"waiting for Weights & Biases, at most {RUN_TIMEOUT_SECONDS:.0f} s; Ctrl-C skips it")
            self._thread.join(RUN_TIMEOUT_SECONDS)

    def _described(self, record: TrialRecord) -> tuple[dict[str, Any], str]:
        """Return a run's config and notes."""
        recipe = record.recipe
        config = {
            **recipe.model_dump(mode="json"),
            "parameters": dict(record.parameters),
            "dataset": self._plan.dataset,
            "data": self._plan.data,
            "protocol": self._plan.protocol,
            "workers": self._workers,
        }
        return config, describe(recipe)

    def _do(self, what: Callable[..., None], *args: Any) -> None:
        self._left.put(lambda: what(*args))

    def _work(self) -> None:
        while (do := self._left.get()) is not None:
            if self._failed:
                continue
            try:
                do()
            # No error, whether of W&B, pydantic or the storage, may end the sweep.
            except Exception as error:
                self._failed = True
                why = one_line(error) or type(error).__name__
                self._console.print(f"Weights & Biases failed ({why}); the sweep continues without it", style="yellow")

    def _open(self, folder: str, kind: Kind, config: dict[str, Any], notes: str) -> None:
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=self.group,
            id=f"{self.group}-{folder}",
            name=f"trial {int(folder)}" if kind == "trial" else folder,
            job_type=kind,
            tags=[self._plan.dataset[:TAG], self._plan.protocol],
            notes=notes,
            config=config,
            dir=self._directory,
            mode=self._mode,
            resume="allow",
            reinit="create_new",  # trials run concurrently
            settings=wandb.Settings(
                console="off",
                silent=True,
                # The driver's load isn't the workers', which Prometheus has.
                x_disable_stats=True,
                init_timeout=RUN_TIMEOUT_SECONDS,
                finish_timeout=RUN_TIMEOUT_SECONDS if kind == "trial" else UPLOAD_TIMEOUT_SECONDS,
            ),
        )
        run.define_metric("score", summary="max")
        run.define_metric("loss", summary="min")
        if self._mode == "online" and self._url is None:
            self._url = f"{run.project_url}/groups/{self.group}"
            self._console.print(f"Weights & Biases: {self._url}")
        self._runs[folder] = run

    def _log(self, folder: str, metrics: dict[str, Any]) -> None:
        import wandb

        loads = {
            f"router_load/{router}": wandb.Histogram(np_histogram=(np.array(row), np.arange(len(row) + 1)))
            for router, row in enumerate(metrics.get("router_load", []))
        }
        scalars = {name: value for name, value in metrics.items() if name != "router_load"}
        self._runs[folder].log({**scalars, **loads}, step=int(metrics["epoch"]))

    def _end(self, folder: str, kind: Kind, config: dict[str, Any], notes: str, summary: dict[str, Any]) -> None:
        if folder not in self._runs:  # an earlier session's trial, which the spent budget has ended
            self._open(folder, kind, config, notes)
        run = self._runs[folder]
        run.summary.update(summary)
        self._over.add(folder)
        # A run of the winner stays open for the scores and the report.
        if kind == "trial" or summary["ended"] == "failed":
            self._runs.pop(folder).finish(exit_code=int(summary["ended"] == "failed"))

    def _conclude(
        self,
        folder: str,
        kind: Kind,
        config: dict[str, Any],
        notes: str,
        test: dict[str, float],
        pictures: Sequence[str],
    ) -> None:
        import wandb

        if folder not in self._runs:  # the run ended in an earlier session
            self._open(folder, kind, config, notes)
            self._over.add(folder)
        run = self._runs[folder]
        run.summary.update({f"test/{name}": value for name, value in test.items()})
        report = storage.join(self._sweep, layout.REPORT)
        with storage.local_copy(report, pictures) as files:
            run.log({name.removesuffix(".png"): wandb.Image(str(files / name)) for name in pictures})
        page = storage.read(storage.join(report, "index.html")).decode()
        run.log({"report": wandb.Html(page, inject=False)})
        best = storage.join(self._sweep, layout.BEST)
        with storage.local_copy(best, BEST_FILES) as files:
            artifact = wandb.Artifact(f"{self.group}-best", type="model", metadata=dict(test))
            for name in BEST_FILES:
                artifact.add_file(str(Path(files) / name))
            run.log_artifact(artifact)

    def _finish_all(self) -> None:
        """Finish all runs concurrently: each may take long."""
        threads = [
            threading.Thread(target=run.finish, args=(0 if folder in self._over else INTERRUPTED,), daemon=True)
            for folder, run in self._runs.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._runs.clear()
