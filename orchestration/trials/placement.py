"""Placement of trials: orphaned placement groups, and the reasons why pending trials wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.util.placement_group import PlacementGroup, remove_placement_group

from orchestration.callback import SweepCallback
from orchestration.callbacks.console import Console
from orchestration.cluster.ray_internals import placement_groups
from orchestration.cluster.resources import TrialResources
from orchestration.cluster.waiting import waiting_for
from orchestration.messages import WorkersEnded, WorkersStarted, message_in
from orchestration.sweep_folder.records import TrialRecord

ORPHAN_CHECK_SECONDS = 1.0  # between two checks for orphaned placement groups
PENDING_REPORT_SECONDS = 20.0  # time for a trial to start its workers before a reason is reported
REPEAT_SECONDS = 600.0  # until the same reason is reported again


class PlacementMonitor(tune.Callback):
    """Remove orphaned placement groups and report why pending trials can't start.

    Args:
        resources: the resources of each trial.
        console: the console for a warning when Ray can't be asked.
        record_of: a function that returns the record of one of Tune's trials.
        callbacks: the callbacks to which the reason is reported.
    """

    def __init__(
        self,
        resources: TrialResources,
        console: Console,
        record_of: Callable[[Trial], TrialRecord],
        callbacks: Sequence[SweepCallback],
    ) -> None:
        self._resources = resources
        self._console = console
        self._record_of = record_of
        self._callbacks = callbacks
        # By the trial's id: the trial, and when it began to wait.
        self._waiting: dict[str, tuple[Trial, float]] = {}
        # By the trial's id: the last reported reason, and when it was reported.
        self._said: dict[str, tuple[str, float]] = {}
        self._forgave: set[str] = set()
        self._swept = self._asked = time.monotonic()

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # Tune pickles its callbacks to restore them; we don't restore.
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._waiting[trial.trial_id] = trial, time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        message = message_in(result)
        if isinstance(message, WorkersStarted):
            self._waiting.pop(trial.trial_id, None)
        elif isinstance(message, WorkersEnded):
            self._waiting[trial.trial_id] = trial, time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._waiting.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._waiting.pop(trial.trial_id, None)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        now = time.monotonic()
        if now - self._swept >= ORPHAN_CHECK_SECONDS:
            self._swept = now
            with self._forgiven():
                remove_orphans()
        late = [trial for trial, since in self._waiting.values() if now - since >= PENDING_REPORT_SECONDS]
        if late and now - self._asked >= PENDING_REPORT_SECONDS:
            self._asked = now
            with self._forgiven():
                self._explain(late)

    def _explain(self, late: list[Trial]) -> None:
        why = waiting_for(self._resources)
        if why is None:
            return  # there is room: the workers are starting
        now = time.monotonic()
        for trial in late:
            said, when = self._said.get(trial.trial_id, ("", 0.0))
            if said != why or now - when >= REPEAT_SECONDS:
                self._said[trial.trial_id] = why, now
                for callback in self._callbacks:
                    callback.trial_waits(self._record_of(trial), why)

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        """Catch errors of Ray's head, which may be busy or restarting; print each kind once.

        An exception in a callback would end all trials.
        """
        try:
            yield
        except Exception as error:
            kind = type(error).__name__
            if kind not in self._forgave:
                self._forgave.add(kind)
                self._console.print(
                    f"can't ask Ray what trials wait for ({kind}: {error}); trying again", style="yellow"
                )


def remove_orphans() -> int:
    """Remove this driver's placement groups whose trial was killed; return their number.

    Ray would keep them while the driver lives, and later trials would find no room.
    """
    job = ray.get_runtime_context().get_job_id()
    removed = 0
    for group in placement_groups():
        # Groups without a creator are Tune's own.
        by_trial = group.creator_actor_id and not ray.ActorID(group.creator_actor_id).is_nil()
        ours = group.creator_job_id.hex() == job and by_trial
        if ours and group.state != group.REMOVED and group.creator_actor_dead:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            removed += 1
    return removed
