"""The winner of a search: trained on all training classes per seed, scored on the test classes."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.search import Searcher

from dfml import storage
from dfml.data.format.manifest import manifest_sha256, read_manifest
from dfml.errors import RunFailed
from dfml.protocol import PROTOCOLS
from orchestration.job import SweepSettings, WinnerJob, config_of
from orchestration.plan import Plan, git_revision, versions
from orchestration.report.model_card import model_card
from orchestration.report.reproductions import Reproduction, over_seeds
from orchestration.report.results import Results
from orchestration.search.objectives import pareto_front
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import TrialRecord, load_winner_records
from orchestration.trials.outcome import Outcome, evaluations, load_outcome
from orchestration.trials.runs import RunContext, run
from orchestration.trials.trial import run_winner


def reproduce(plan: Plan, settings: SweepSettings, winner: TrialRecord, trials: int, context: RunContext) -> None:
    """Train the winner with each of the plan's seeds on all training classes, and score each run.

    Scored runs aren't run again, and interrupted runs resume. In the end `best/` holds the first
    seed's model: choosing a model by its test score would be selection on the test classes.

    Args:
        plan: the sweep's plan.
        settings: settings of all its trials.
        winner: the trial that won.
        trials: number of trials of the search, the winner included.
        context: the context of all runs.

    Raises:
        RunFailed: the first seed's run failed, so there is no model.
    """
    sweep = settings.sweep
    runs = runs_of(plan, sweep, winner)
    missing = [record for record in runs if _outcome(sweep, record) is None]
    if missing:
        context.console.print(_announcement(plan, winner, runs, missing))
        for record in missing:
            record.state, record.reason = "running", None
        jobs = [_job(plan, settings, winner, record) for record in missing]
        run(run_winner, context, missing, trials=len(missing), search=FixedJobs(jobs))
    if _outcome(sweep, runs[0]) is None:
        raise RunFailed(
            f"the winner, trial {winner.number}, failed when trained on all training classes: {runs[0].reason}; fix "
            "the cause and run the same command again, or choose another --name"
        )
    _complete_best(plan, sweep, runs, trials)


def runs_of(plan: Plan, sweep: str, winner: TrialRecord) -> list[TrialRecord]:
    """Return the winner's runs, one per seed; new runs have the next free numbers.

    A sweep that was extended may have runs of an earlier winner too: they keep their numbers, their
    folders and their counts of evaluations on the test classes.
    """
    known = load_winner_records(sweep)
    parameters = {"trial": winner.number, "epochs": _epochs(plan, winner)}
    runs = []
    for seed in range(plan.seed, plan.seed + plan.reproductions):
        recipe = winner.recipe.model_copy(update={"seed": seed})
        found = [record for record in known if record.parameters == parameters and record.recipe == recipe]
        if not found:
            found = [TrialRecord(kind="winner", number=len(known), parameters=parameters, recipe=recipe)]
            known += found
        runs += found[:1]
    return runs


def _epochs(plan: Plan, winner: TrialRecord) -> int:
    """Return the epochs of the winner's runs.

    These are the epochs up to the trial's best score, or all if each run chooses its best epoch.
    """
    return plan.defaults().epochs if PROTOCOLS[plan.protocol].scores_on_test else winner.best_epoch


def _announcement(plan: Plan, winner: TrialRecord, runs: list[TrialRecord], missing: list[TrialRecord]) -> str:
    seeds = ", ".join(str(record.recipe.seed) for record in missing)
    if PROTOCOLS[plan.protocol].scores_on_test:
        said = (
            f"the winner is trial {winner.number} (test {winner.heading} {winner.best:.3f}, by which its epoch was "
            "chosen): computing all metrics of that epoch on the test classes"
        )
        return said if len(runs) == 1 else f"{said}, and training with other seeds too; seed {seeds} to run"
    said = (
        f"the winner is trial {winner.number} (validation {winner.heading} {winner.best:.3f}): training it on all "
        f"training classes for {_epochs(plan, winner)} epochs, then scoring it once on the test classes"
    )
    return said if len(runs) == 1 else f"{said}, with each seed; seed {seeds} to run"


def _job(plan: Plan, settings: SweepSettings, winner: TrialRecord, record: TrialRecord) -> WinnerJob:
    # Under the published protocol the trial itself is the first seed's run: nothing was held out.
    trained = PROTOCOLS[plan.protocol].scores_on_test and record.recipe == winner.recipe
    return WinnerJob(
        settings,
        record.number,
        record.parameters,
        record.recipe,
        winner.best_epoch if trained else _epochs(plan, winner),
        winner=winner.number,
        trained=storage.join(settings.sweep, layout.TRIALS, winner.folder) if trained else None,
        first=record.recipe.seed == plan.seed,
        facts=_facts(plan, winner),
    )


def _facts(plan: Plan, winner: TrialRecord) -> dict[str, Any]:
    """Return the entries of the model's `config.json` on how it was made."""
    manifest = read_manifest(plan.data)
    metrics = next((metrics for metrics in winner.epochs if metrics["epoch"] == winner.best_epoch), {})
    scores = {k: v for k, v in metrics.items() if k.startswith(("recall", "r_precision", "map", "top"))}
    return {
        "dataset": plan.dataset,
        "manifest_sha256": manifest_sha256(plan.data),
        "splits": {name: split.model_dump() for name, split in manifest.splits.items()},
        "protocol": plan.protocol,
        **({} if PROTOCOLS[plan.protocol].scores_on_test else {"validation": scores}),
        "versions": versions(),
        "git_revision": git_revision(),
    }


class FixedJobs(Searcher):
    """Suggest a fixed list of jobs."""

    def __init__(self, jobs: list[WinnerJob]) -> None:
        super().__init__()
        self._left = list(jobs)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return config_of(self._left.pop(0)) if self._left else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: each session finds the missing runs itself."""


def _outcome(sweep: str, record: TrialRecord) -> Outcome | None:
    return load_outcome(storage.join(sweep, layout.TRIALS, record.folder))


def _evaluations(plan: Plan, sweep: str) -> int:
    """Count the sweep's evaluations on the test classes; under `holdout` trials make none."""
    trials = range(plan.trials) if PROTOCOLS[plan.protocol].scores_on_test else range(0)
    folders = [layout.trial_folder(number) for number in trials]
    return evaluations(sweep, [*folders, *(record.folder for record in load_winner_records(sweep))])


def _complete_best(plan: Plan, sweep: str, runs: list[TrialRecord], trials: int) -> None:
    """Complete `best/` once all runs have ended.

    Add the number of trials and of evaluations on the test classes, the reproductions and their
    interval.
    """
    uri = storage.join(sweep, layout.BEST, "config.json")
    config = json.loads(storage.read(uri))
    reproductions = _reproductions(sweep, runs)
    config |= {
        "trials": trials,
        "test_evaluations": _evaluations(plan, sweep),
        "reproductions": [each.model_dump() for each in reproductions],
        "interval": {name: each.model_dump() for name, each in over_seeds(reproductions).items()},
    }
    storage.write(uri, (json.dumps(config, indent=1) + "\n").encode())
    storage.write(storage.join(sweep, layout.BEST, "README.md"), model_card(config).encode())


def _reproductions(sweep: str, runs: list[TrialRecord]) -> list[Reproduction]:
    return [Reproduction.of(record, _outcome(sweep, record)) for record in runs]


def results_of(plan: Plan, sweep: str, records: list[TrialRecord], winner: TrialRecord) -> Results:
    """Return the results of a sweep after `reproduce`."""
    runs = runs_of(plan, sweep, winner)
    outcome = _outcome(sweep, runs[0])
    # `reproduce` raises otherwise.
    assert outcome is not None
    reproductions = _reproductions(sweep, runs)
    return Results(
        sweep=sweep,
        data=plan.data,
        protocol=plan.protocol,
        seed=plan.seed,
        trials=records,
        winner=winner.number,
        winner_epochs=outcome.epochs,
        test={"winner": outcome.test, **outcome.baselines},
        test_evaluations=_evaluations(plan, sweep),
        reproductions=reproductions,
        interval=over_seeds(reproductions),
        front=[record.number for record in pareto_front(records)] if "flops" in plan.objectives else [],
        retrievals=outcome.retrievals,
        router_names=outcome.router_names,
        runs=runs,
        earlier_runs=[
            record for record in load_winner_records(sweep) if all(record.number != run.number for run in runs)
        ],
    )
