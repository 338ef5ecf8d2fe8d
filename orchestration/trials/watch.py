"""Looks after trials that wait: removes what a killed one left, and says what one lacks that isn't given its workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestration.cluster.share import Share
from orchestration.cluster.waiting import waiting_for
from orchestration.console import Console
from orchestration.reports import WORKERS
from orchestration.trials.placement import remove_orphans

SWEEP_INTERVAL = 1.0  # seconds between two looks for orphaned placement groups
PATIENCE = 20.0  # seconds that a trial may take to start its workers before anything is said
AGAIN = 600.0  # seconds until the same reason is said once more


class Watch(tune.Callback):
    """Called by Tune in every step of its loop."""

    def __init__(self, share: Share, console: Console) -> None:
        self._share = share
        self._console = console
        self._waiting: dict[str, tuple[Trial, float]] = {}  # trial's id: the trial, and since when
        self._said: dict[str, tuple[str, float]] = {}  # trial's id: what, and when
        self._forgave: set[str] = set()
        self._swept = self._asked = time.monotonic()

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return tune.Callback, ()  # Tune pickles its callbacks to restore them; we don't

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._waiting[trial.trial_id] = trial, time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if WORKERS not in result:
            return
        if result[WORKERS]:
            self._waiting.pop(trial.trial_id, None)
        else:  # they have ended: it does too, or is to be given others
            self._waiting[trial.trial_id] = trial, time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._waiting.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._waiting.pop(trial.trial_id, None)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        now = time.monotonic()
        if now - self._swept >= SWEEP_INTERVAL:
            self._swept = now
            with self._forgiven():
                remove_orphans()
        late = [trial for trial, since in self._waiting.values() if now - since >= PATIENCE]
        if late and now - self._asked >= PATIENCE:
            self._asked = now
            with self._forgiven():
                self._explain(late)

    def _explain(self, late: list[Trial]) -> None:
        why = waiting_for(self._share)
        if why is None:
            return  # there is room: its workers are starting
        now = time.monotonic()
        for trial in late:
            said, when = self._said.get(trial.trial_id, ("", 0.0))
            if said != why or now - when >= AGAIN:
                self._said[trial.trial_id] = why, now
                self._console.waits(trial.config["number"], why)

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        """Ray's head may be busy, or restarting; Tune would end all trials for what is raised here. Said once for each kind of error."""
        try:
            yield
        except Exception as error:
            kind = type(error).__name__
            if kind not in self._forgave:
                self._forgave.add(kind)
                self._console.say(
                    f"Ray couldn't be asked what trials wait for ({kind}: {error}); trying again", style="yellow"
                )
