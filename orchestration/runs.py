"""Ray Tune: runs trials (and the winner's retraining), keeps their records, and lets the console know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestration import layout
from orchestration.console import Console
from orchestration.interruption import Interruption
from orchestration.records import TrialRecord

# The driver of a trial only waits. It must not take a CPU that its own workers wait for, and belongs on the head node,
# which isn't a spot machine; each cluster's head has this resource.
DRIVER = {"node:__internal_head__": 0.001}


class Interrupted(Exception):
    """The user asked to stop; all records are saved."""


def run(
    trainable: Callable[[dict[str, Any]], None],
    sweep: str,
    records: list[TrialRecord],
    console: Console,
    interruption: Interruption,
    trials: int,
    concurrent: int = 1,
    search: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    config: dict[str, Any] | None = None,
) -> None:
    """Run `trials` trials to their end; `records` grows and is saved as they go.

    Raises:
        Interrupted: on Ctrl-C. What was running keeps the state "running" in its record.
    """
    tune.Tuner(
        tune.with_resources(trainable, DRIVER),
        param_space=config,
        tune_config=tune.TuneConfig(
            num_samples=trials,
            max_concurrent_trials=concurrent,
            search_alg=search,
            scheduler=scheduler,
            trial_dirname_creator=_folder,
            # Reused actors would save seconds a trial, but an early stop then makes the next trial fail.
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name=layout.TUNE, storage_path=sweep, verbose=0, callbacks=[Recorder(sweep, records, console, interruption)]
        ),
    ).fit()
    if interruption.count:
        raise Interrupted


def _folder(trial: Trial) -> str:
    return f"{trial.config['number']:03d}-{trial.trial_id}"


class Recorder(tune.Callback):
    """Writes each trial's record as its results come in. Records are in the order of their numbers."""

    def __init__(self, sweep: str, records: list[TrialRecord], console: Console, interruption: Interruption) -> None:
        self._sweep = sweep
        self._records = records
        self._console = console
        self._interruption = interruption

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # Tune pickles its callbacks to restore them. We don't restore: each session starts from the records.
        return tune.Callback, ()

    def _record(self, trial: Trial) -> TrialRecord:
        config = trial.config
        for record in self._records:
            if record.number == config["number"]:
                return record
        record = TrialRecord(number=config["number"], parameters=config["parameters"], recipe=config["recipe"])
        self._records.append(record)
        return record

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        record.save(self._sweep)
        self._console.started(record)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        if record.add({name: result[name] for name in result["figures"]}):
            record.save(self._sweep)
            self._console.epoch(record, trial.config["job"]["epochs"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        if self._interruption.count:
            return  # Tune ends what an interruption cut as if it were complete
        done = record.epochs and record.epochs[-1]["epoch"] >= trial.config["job"]["epochs"]
        record.state = "finished" if done else "stopped"
        record.save(self._sweep)
        self._console.ended(record)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        record.state, record.reason = "failed", failure_reason(trial)
        record.save(self._sweep)
        self._console.ended(record)


def failure_reason(trial: Trial) -> str:
    """The exception at the root of a failed trial, in a line: a worker's own where there is one.

    Read from the file that Tune has just written on this machine; its copy in the storage isn't there yet.
    """
    if trial.pickled_error_file is None or not Path(trial.pickled_error_file).exists():
        return _last_line(Path(trial.error_file).read_text()) if trial.error_file else "unknown"
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    error = getattr(error, "cause", None) or error  # RayTaskError → WorkerGroupError, ControllerError
    if failures := getattr(error, "worker_failures", None):
        error = failures[min(failures)]
    error = getattr(error, "controller_failure", None) or error
    return f"{type(error).__name__}: {_last_line(str(error))}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
