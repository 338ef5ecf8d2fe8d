"""Weights & Biases: a group for the sweep, a run for each trial and each run of the winner.

The driver writes them all, in a thread of its own: a server that is slow or away holds up no trial, a trial that is stopped loses
nothing, and no worker is given the key. (Ray's own callback starts a process for each trial and hands it the key.)
"""

from __future__ import annotations

import hashlib
import netrc
import os
import queue
import re
import shlex
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np

from dfml import storage
from dfml.command_line import INTERRUPTED
from dfml.errors import InvalidInput
from orchestration import layout
from orchestration.console import Console
from orchestration.identity import created
from orchestration.plan import Plan
from orchestration.records import TrialRecord, describe, router_loads
from orchestration.trials.shown import SHOWN, picture_of

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "off"]
MODES: tuple[Mode, ...] = ("online", "offline", "off")
PROJECT = "dfml"  # where WANDB_PROJECT names no other
PATIENCE = 30.0  # seconds that a run may take to begin, or a trial's to end; what isn't uploaded by then stays on disk, for `wandb sync`
LAST_UPLOAD = 300.0  # seconds that the winner's may take to end, with the model
BEST_FILES = ("model.safetensors", "config.json", "README.md")
TAG = 64  # letters that W&B allows


def mode_for(asked: Mode | None) -> Mode:
    """What is asked for; else what WANDB_MODE says; else online where there is a key.

    Raises:
        InvalidInput: online is asked for, but there is no key; or W&B can't use what WANDB_* say.
    """
    if asked == "off" or (asked is None and os.environ.get("WANDB_MODE") == "disabled"):
        return "off"  # before wandb is imported, which takes a second
    import wandb

    settings = wandb.Settings()  # not `wandb.setup()`, which starts a process
    try:
        settings.update_from_system_settings()  # `wandb offline` and the like
        settings.update_from_env_vars(dict(os.environ))
        key = bool(settings.api_key or settings.identity_token_file) or _in_netrc(settings.base_url)
    except (wandb.Error, ValueError) as error:
        raise InvalidInput(
            f"Weights & Biases can't use what WANDB_* or its settings say ({type(error).__name__}): mend them, or give --wandb off"
        ) from error
    said = (
        {"disabled": "off", "dryrun": "offline"}.get(settings.mode, settings.mode)
        if "WANDB_MODE" in os.environ
        else None
    )
    wanted = asked or said
    if wanted == "online" and not key:
        raise InvalidInput(
            "Weights & Biases is to be online, but there is no key: run `wandb login`, set WANDB_API_KEY, or give --wandb offline"
        )
    if wanted in MODES:
        return wanted
    return "online" if key and settings.mode == "online" else "offline"


def _in_netrc(url: str) -> bool:
    """Whether `wandb login` has left a key for this server."""
    try:
        return netrc.netrc().authenticators(urlsplit(url).hostname or url) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbRuns:
    """Follows a sweep.

    Args:
        plan: of the sweep; to be set again when the cluster is known, which may decide the workers.
        sweep: its folder or URI; the files are kept there, in `wandb/`, where it is a folder, else in that of WANDB_DIR or of this one.
        mode: not "off".
        console: told once if something fails; the sweep then goes on without.

    A context manager: what is still to be written is, at its end; after an interruption for half a minute at most.
    """

    def __init__(self, plan: Plan, sweep: str, mode: Literal["online", "offline"], console: Console) -> None:
        self.plan = plan
        self._sweep = sweep
        self._mode = mode
        self._console = console
        self._directory = os.environ.get("WANDB_DIR", ".") if "://" in sweep else sweep
        self._runs: dict[int, wandb.Run] = {}  # open ones, by the record's number
        self._over: set[int] = set()  # numbers of records that have ended
        self._failed = False
        self._url: str | None = None
        self._left: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: a server that doesn't answer must not keep the process.
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)

    @cached_property
    def group(self) -> str:
        """The group of all runs; also the beginning of their ids, which a resumed sweep therefore finds again.

        Known once the sweep's folder is there. One of the same name elsewhere, or begun anew, is another.
        """
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", self.plan.name)[:64]
        return f"{name}-{hashlib.sha256(f'{self._sweep} {created(self._sweep)}'.encode()).hexdigest()[:8]}"

    @property
    def where(self) -> str:
        """Where the runs are to be seen, or how they come there."""
        files = f"{shlex.quote(storage.join(self._directory, 'wandb'))}/*run-*-{self.group}-*"
        if self._failed:
            return f"incomplete, as it failed; what there is: {files}"
        if self._mode == "online":
            return self._url or f"group {self.group}"
        return f"offline; to upload it: wandb login, then wandb sync {files}"

    def started(self, record: TrialRecord) -> None:
        self._do(self._open, record.number, record.folder, *self._described(record))

    def epoch(self, record: TrialRecord, last: int) -> None:
        self._do(self._log, record.number, dict(record.epochs[-1]))

    def ended(self, record: TrialRecord) -> None:
        summary = {
            "ended": record.state,
            "reason": record.reason,
            "cpu_hours": record.cpu_hours,
            "gpu_hours": record.gpu_hours,
            "s3_bytes": record.s3_bytes,
            "losses": record.losses,
        }
        self._do(self._end, record.number, {name: value for name, value in summary.items() if value is not None})

    def concluded(self, record: TrialRecord, test: dict[str, float]) -> None:
        """The sweep has its model: to the winner's run its scores on the test classes, the report with its retrievals, and the model."""
        self._do(self._conclude, record.number, record.folder, *self._described(record), test)

    def __enter__(self) -> WandbRuns:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is written. What is still open then was cut."""
        self._do(self._finish_all)
        self._left.put(None)
        if kind is None:
            self._thread.join()
            return
        self._thread.join(PATIENCE / 10)
        if self._thread.is_alive():
            self._console.say(f"waiting for Weights & Biases, at most {PATIENCE:.0f} s; Ctrl-C leaves it")
            self._thread.join(PATIENCE)

    def _described(self, record: TrialRecord) -> tuple[dict[str, Any], str]:
        """A run's config and notes."""
        recipe = record.training_recipe()
        config = {
            **recipe.model_dump(mode="json"),
            "parameters": dict(record.parameters),
            "dataset": self.plan.dataset,
            "data": self.plan.data,
            "protocol": self.plan.protocol,
            "workers": self.plan.workers_per_trial,
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
            except Exception as error:  # whatever it is (W&B's, pydantic's, the storage's), it must not cost the sweep
                self._failed = True
                why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                self._console.say(f"Weights & Biases failed ({why}); the sweep goes on without it", style="yellow")

    def _open(self, number: int, folder: str, config: dict[str, Any], notes: str) -> None:
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=self.group,
            id=f"{self.group}-{folder}",
            name=f"trial {number}" if number >= 0 else folder,
            job_type="trial" if number >= 0 else "winner",
            tags=[self.plan.dataset[:TAG], self.plan.protocol],
            notes=notes,
            config=config,
            dir=self._directory,
            mode=self._mode,
            resume="allow",
            reinit="create_new",  # trials run side by side
            settings=wandb.Settings(
                console="off",
                silent=True,
                x_disable_stats=True,  # the driver's own load says nothing of the workers', which Prometheus has
                init_timeout=PATIENCE,
                finish_timeout=PATIENCE if number >= 0 else LAST_UPLOAD,
            ),
        )
        run.define_metric("score", summary="max")
        run.define_metric("loss", summary="min")
        if self._mode == "online" and self._url is None:
            self._url = f"{run.project_url}/groups/{self.group}"
            self._console.say(f"Weights & Biases: {self._url}")
        self._runs[number] = run

    def _log(self, number: int, figures: dict[str, Any]) -> None:
        import wandb

        loads = {
            f"router_load/{router}": wandb.Histogram(np_histogram=(np.array(row), np.arange(len(row) + 1)))
            for router, row in enumerate(router_loads(figures))
        }
        scalars = {name: value for name, value in figures.items() if not name.startswith("router_load_")}
        self._runs[number].log({**scalars, **loads}, step=int(figures["epoch"]))

    def _end(self, number: int, summary: dict[str, Any]) -> None:
        run = self._runs[number]
        run.summary.update(summary)
        self._over.add(number)
        # A run of the winner stays open: the scores and the report come after it.
        if number >= 0 or summary["ended"] == "failed":
            self._runs.pop(number).finish(exit_code=int(summary["ended"] == "failed"))

    def _conclude(self, number: int, folder: str, config: dict[str, Any], notes: str, test: dict[str, float]) -> None:
        import wandb

        if number not in self._runs:  # it ended in an earlier session
            self._open(number, folder, config, notes)
            self._over.add(number)
        run = self._runs[number]
        run.summary.update({f"test/{name}": value for name, value in test.items()})
        report = storage.join(self._sweep, layout.REPORT)
        pictures = [f"{picture_of(group)}.png" for group in SHOWN]
        pictures = [name for name in pictures if storage.exists(storage.join(report, name))]  # a classifier has none
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
        """All at once: each may take its time."""
        threads = [
            threading.Thread(target=run.finish, args=(0 if number in self._over else INTERRUPTED,), daemon=True)
            for number, run in self._runs.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._runs.clear()
