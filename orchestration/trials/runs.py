"""Ray Tune: runs trials, and the winner's retraining, to their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestration import layout
from orchestration.cluster.share import Share
from orchestration.console import Console
from orchestration.follower import Follower
from orchestration.interruption import Interruption
from orchestration.records import TrialRecord
from orchestration.search.spent import Spent
from orchestration.trials.recorder import Recorder
from orchestration.trials.watch import Watch

# The driver of a trial only waits. It must not take a CPU that its own workers wait for, and belongs on the head node,
# which isn't a spot machine; each cluster's head has this resource.
DRIVER = {"node:__internal_head__": 0.001}
MAX_LOSSES = 5  # of a trial's own process; it goes on from the last checkpoint


class Interrupted(Exception):
    """The user asked to stop; all records are saved."""


@dataclass(frozen=True)
class Setting:
    """Where and how the trials of a sweep run: what all calls of `run` share.

    Attributes:
        sweep: its folder or URI.
        share: what each trial gets of the cluster.
        console: prints.
        interruption: of the sweep.
        followers: told of trials and epochs.
        driver: resources of a trial's own process.
        reuse_actors: whether a trial may run in the process of an earlier one. That would save seconds, but a trial that is stopped in the
            middle of a training leaves the process unfit for the next.
    """

    sweep: str
    share: Share
    console: Console
    interruption: Interruption
    followers: Sequence[Follower] = ()
    driver: dict[str, float] = field(default_factory=lambda: DRIVER)
    reuse_actors: bool = False


def run(
    trainable: Callable[[dict[str, Any]], None],
    setting: Setting,
    records: list[TrialRecord],
    trials: int,
    search: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    config: dict[str, Any] | None = None,
    spent: Spent | None = None,
    follow: Callable[[TrialRecord], None] = lambda record: None,
) -> None:
    """Run `trials` trials to their end; `records` grows and is saved as they go.

    Args:
        trainable: what Tune calls for a trial, with its configuration.
        setting: where and how they run.
        records: of earlier sessions.
        trials: that are to run now.
        search: asked for configurations.
        scheduler: asked whether a trial goes on.
        config: of all trials, where nothing is searched.
        spent: ends the run when the budget is; None where what runs isn't charged to one.
        follow: called with the record of each trial that begins or ends.

    Raises:
        Interrupted: on Ctrl-C, or after it. What was running keeps the state "running" in its record.
    """
    if setting.interruption.count:
        raise Interrupted
    # Tune doesn't forgive what a callback raises: those here don't.
    recorder = Recorder(setting.sweep, records, setting.console, setting.interruption, spent, follow, setting.followers)
    tune.Tuner(
        tune.with_resources(trainable, setting.driver),
        param_space=config,
        tune_config=tune.TuneConfig(
            num_samples=trials,
            max_concurrent_trials=setting.share.concurrent,
            search_alg=search,
            scheduler=scheduler,
            trial_dirname_creator=_folder,
            reuse_actors=setting.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name=layout.TUNE,
            storage_path=setting.sweep,
            verbose=0,
            stop=spent,
            failure_config=tune.FailureConfig(max_failures=MAX_LOSSES),
            callbacks=[recorder, Watch(setting.share, setting.console)],
        ),
    ).fit()
    setting.interruption.forget_tune()
    recorder.finish()
    if setting.interruption.count:
        raise Interrupted


def _folder(trial: Trial) -> str:
    return f"{trial.config['number']:03d}-{trial.trial_id}"
