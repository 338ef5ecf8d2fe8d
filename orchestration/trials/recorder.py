"""Writes each trial's record as its results come in from Tune, and lets the console know."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.experiment import Trial

from dfml.errors import InvalidInput
from orchestration.console import Console
from orchestration.follower import Follower
from orchestration.interruption import Interruption
from orchestration.records import TrialRecord
from orchestration.reports import FAILED, FIGURES, LOST, RESUMED, S3_BYTES, UNFIT, WORKER_SECONDS, WORKERS
from orchestration.search.spent import OVER_BUDGET, Spent
from orchestration.trials.retention import clear_partial

AGAIN = 30.0  # seconds until records that couldn't be saved are tried again


class Recorder(tune.Callback):
    """Keeps the records of a sweep.

    Args:
        sweep: its folder or URI.
        records: of earlier sessions, in the order of their numbers; grows.
        console: prints.
        interruption: of the sweep.
        spent: says whether the budget is, and has the clock; None where neither is of interest.
        follow: called when a trial begins or ends.
        followers: told of trials and epochs.
    """

    def __init__(
        self,
        sweep: str,
        records: list[TrialRecord],
        console: Console,
        interruption: Interruption,
        spent: Spent | None,
        follow: Callable[[TrialRecord], None],
        followers: Sequence[Follower] = (),
    ) -> None:
        self._sweep = sweep
        self._records = records
        self._console = console
        self._interruption = interruption
        self._spent = spent
        self._follow = follow
        self._followers = followers
        self._started: set[int] = set()  # numbers, in this session
        self._unsaved: dict[int, TrialRecord] = {}
        self._tried = 0.0  # to save them, on the monotonic clock

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # Tune pickles its callbacks to restore them. We don't restore: each session starts from the records.
        return tune.Callback, ()

    def _record(self, trial: Trial) -> TrialRecord:
        config = trial.config
        for record in self._records:
            if record.number == config["number"]:
                return record
        record = TrialRecord(
            number=config["number"], parameters=config["parameters"], recipe=config["recipe"], flops=config.get("flops")
        )
        self._records.append(record)
        return record

    def _save(self, record: TrialRecord) -> None:
        record.seen = time.time()
        self._unsaved[record.number] = record
        self._save_what_is_unsaved()

    def _save_what_is_unsaved(self) -> None:
        """Save, or keep for later: what is raised in a callback would end all trials, and the storage may be away for minutes only."""
        try:
            for number, record in list(self._unsaved.items()):
                record.save(self._sweep)
                del self._unsaved[number]
            if self._spent is not None:
                self._spent.clock.save()
        except (OSError, InvalidInput) as error:
            self._tried = time.monotonic()
            self._console.say(
                f"records can't be saved ({error}); the sweep goes on, and they are tried again", style="yellow"
            )

    def finish(self) -> None:
        """After the run: save what couldn't be saved.

        Raises:
            OSError: that fails again.
        """
        for record in self._unsaved.values():
            record.save(self._sweep)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._unsaved and time.monotonic() - self._tried >= AGAIN:
            self._save_what_is_unsaved()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        now = time.time()
        record.began = record.began or now
        record.reason, record.unfit = None, False  # of a try whose end was cut
        if record.number in self._started:
            # Tune starts it anew: its own process was lost.
            record.losses += 1
            self._console.lost(record, "the trial's own process has ended unexpectedly")
        else:
            self._started.add(record.number)
            record.paused += now - record.seen if record.seen is not None else 0.0
            self._console.started(record)
            for follower in self._followers:
                follower.started(record)
            self._tell(record)
        self._save(record)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        job = trial.config["job"]
        if result.get(WORKERS):
            self._workers(record, result[WORKERS], result.get(LOST), job["workers"])
        if WORKER_SECONDS in result:
            hours = result[WORKER_SECONDS] / 3600
            record.cpu_hours += hours * job["cpus"]
            record.gpu_hours += hours if job["gpu"] else 0.0
            record.s3_bytes += result.get(S3_BYTES, 0)
        if FAILED in result:
            record.reason, record.unfit = result[FAILED], result[UNFIT]
        if FIGURES in result:
            if record.add({name: result[name] for name in result[FIGURES]}):
                self._save(record)
                self._console.epoch(record, job["epochs"])
                for follower in self._followers:
                    follower.epoch(record, job["epochs"])
            elif not result[RESUMED]:
                record.repeated_epochs += 1

    def _workers(self, record: TrialRecord, now: int, lost: str | None, wanted: int) -> None:
        record.placed = record.placed or time.time()
        self._console.placed(record)
        if lost is not None:
            record.losses += 1
            self._console.lost(record, lost)
        if now < wanted:
            self._console.fewer_workers(record, now, wanted)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        if self._interruption.count:
            return  # Tune ends what an interruption cut as if it were complete
        if record.reason is not None:
            record.state = "failed"
        elif record.epochs and record.epochs[-1]["epoch"] >= trial.config["job"]["epochs"]:
            record.state = "finished"
        else:
            record.state = "stopped"
            record.reason = OVER_BUDGET if self._spent is not None and self._spent.reached() else None
        self._end(record)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        record.state, record.reason = "failed", failure_reason(trial)
        self._end(record)

    def _end(self, record: TrialRecord) -> None:
        record.ended = time.time()
        self._save(record)
        self._tell(record)
        self._console.ended(record)
        for follower in self._followers:
            follower.ended(record)
        with contextlib.suppress(OSError, InvalidInput):  # the sweep does it once more in the end
            clear_partial(self._sweep, record.folder)

    def _tell(self, record: TrialRecord) -> None:
        """Let the study follow; it is made from the records again when a session begins."""
        with contextlib.suppress(OSError, InvalidInput):
            self._follow(record)


def failure_reason(trial: Trial) -> str:
    """The exception at the root of a failed trial, in a line.

    Read from the file that Tune has just written on this machine; its copy in the storage isn't there yet.
    """
    if trial.pickled_error_file is None or not Path(trial.pickled_error_file).exists():
        return _last_line(Path(trial.error_file).read_text()) if trial.error_file else "unknown"
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    error = getattr(error, "cause", None) or error  # RayTaskError → ControllerError
    error = getattr(error, "controller_failure", None) or error
    return f"{type(error).__name__}: {_last_line(str(error))}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
