"""Trials and the winner's retraining as runs of Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestration.callback import SweepCallback
from orchestration.callbacks.console import Console
from orchestration.cluster.interruption import Interruption
from orchestration.cluster.resources import TrialResources
from orchestration.job import job_in
from orchestration.search.budget_stopper import BudgetStopper
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import TrialRecord
from orchestration.trials.placement import PlacementMonitor
from orchestration.trials.recorder import Recorder

# The driver of a trial only waits: it must not take a CPU from its own workers. It belongs on the
# head node, which isn't a spot machine; every cluster's head has this resource.
DRIVER = {"node:__internal_head__": 0.001}
# Restarts of a trial's own process, whose workers have a limit of their own (`trial.py`).
MAX_RESTARTS = 5


class Interrupted(Exception):
    """The user asked to stop; all records are saved."""


@dataclass(frozen=True)
class RunContext:
    """Settings that all calls of `run` in a sweep share.

    Attributes:
        sweep: the sweep's folder or URI.
        resources: the resources of each trial.
        console: the console for warnings.
        interruption: the state of the user's request to stop.
        callbacks: the callbacks to call for each event, the console among them.
        driver: the resources of a trial's own process.
        reuse_actors: whether a trial may run in an earlier trial's process. That saves seconds,
            but a trial stopped during training leaves its process unusable for the next one.
    """

    sweep: str
    resources: TrialResources
    console: Console
    interruption: Interruption
    callbacks: Sequence[SweepCallback] = ()
    driver: dict[str, float] = field(default_factory=lambda: DRIVER)
    reuse_actors: bool = False


def run(
    trainable: Callable[[dict[str, Any]], None],
    context: RunContext,
    records: list[TrialRecord],
    trials: int,
    search: Searcher,
    scheduler: TrialScheduler | None = None,
    stopper: BudgetStopper | None = None,
    callbacks: Sequence[SweepCallback] = (),
) -> None:
    """Run trials to their end, and save their records meanwhile.

    Args:
        trainable: the function that Tune calls with a trial's configuration.
        context: the settings of the sweep.
        records: the records of earlier sessions; new ones are appended.
        trials: the number of trials to run.
        search: the searcher that suggests configurations.
        scheduler: the scheduler that may stop trials early; None: all run to their end.
        stopper: the stopper of the search's budget; None for runs without a budget.
        callbacks: more callbacks, called before the ones of the context.

    Raises:
        Interrupted: Ctrl-C was pressed. Trials that were running keep the state "running" in
            their records.
    """
    if context.interruption.count:
        raise Interrupted
    everyone = [*callbacks, *context.callbacks]
    # An exception in a callback aborts the Tune run; these callbacks never raise.
    recorder = Recorder(context.sweep, records, context.console, context.interruption, stopper, everyone)
    monitor = PlacementMonitor(context.resources, context.console, recorder.record_of, everyone)
    tune.Tuner(
        tune.with_resources(trainable, context.driver),
        tune_config=tune.TuneConfig(
            num_samples=trials,
            max_concurrent_trials=context.resources.concurrent,
            search_alg=search,
            scheduler=scheduler,
            trial_dirname_creator=_folder,
            reuse_actors=context.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name=layout.TUNE,
            storage_path=context.sweep,
            verbose=0,
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=MAX_RESTARTS),
            callbacks=[recorder, monitor],
        ),
    ).fit()
    context.interruption.forget_tune()
    recorder.finish()
    if context.interruption.count:
        raise Interrupted


def _folder(trial: Trial) -> str:
    return f"{job_in(trial.config).folder}-{trial.trial_id}"
