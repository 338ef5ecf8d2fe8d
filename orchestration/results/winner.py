"""The winner of a search: its recipe trained on all training classes, once for each seed, and scored on the test classes."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.search import Searcher

from dfml import storage
from dfml.data.manifest import manifest_sha256, read_manifest
from dfml.errors import InvalidInput
from orchestration import layout
from orchestration.plan import Plan, git_revision, versions
from orchestration.records import TrialRecord, load_record
from orchestration.results.model_card import model_card
from orchestration.results.reproductions import Reproduction, over_seeds
from orchestration.results.summary import Results
from orchestration.search.objectives import pareto_front
from orchestration.trials.evaluations import evaluations
from orchestration.trials.outcome import Outcome, load_outcome
from orchestration.trials.runs import Setting, run
from orchestration.trials.trial import run_winner


def reproduce(plan: Plan, job: dict[str, Any], winner: TrialRecord, trials: int, setting: Setting) -> None:
    """Run the winner with each of the plan's seeds on all training classes, and score each on the test classes.

    What has been scored already isn't run again, and what was cut goes on. In the end `best/` holds the first seed's model: to choose the
    best of them by their scores would be selection on the test classes.

    Args:
        plan: of the sweep.
        job: what all its trials share.
        winner: the trial that won.
        trials: that it won against, itself included.
        setting: where and how they run.

    Raises:
        InvalidInput: the first seed's run failed, so that there is no model.
    """
    sweep = job["sweep"]
    runs = runs_of(plan, sweep, winner)
    lacking = [record for record in runs if _outcome(sweep, record) is None]
    if lacking:
        setting.console.say(_announcement(plan, winner, runs, lacking))
        for record in lacking:
            record.state, record.reason = "running", None
        configurations = [_configuration(plan, job, winner, record) for record in lacking]
        run(run_winner, setting, lacking, trials=len(lacking), search=InTurn(configurations))
    if _outcome(sweep, runs[0]) is None:
        raise InvalidInput(
            f"the winner, trial {winner.number}, failed on all training classes: {runs[0].reason}; mend that and give the same "
            "command again, or choose another --name"
        )
    _complete_best(plan, sweep, runs, trials)


def runs_of(plan: Plan, sweep: str, winner: TrialRecord) -> list[TrialRecord]:
    """The winner's runs, one for each seed from the sweep's on; those that haven't begun have the next free numbers.

    A sweep that was extended may have runs of an earlier winner too: these keep their numbers, folders and count of looks at the test
    classes.
    """
    known = _known_runs(sweep)
    what = {"trial": winner.number, "epochs": _epochs(plan, winner)}
    runs = []
    for seed in range(plan.seed, plan.seed + plan.reproductions):
        recipe = {**winner.recipe, "seed": seed}
        found = [record for record in known if record.parameters == what and record.recipe == recipe]
        if not found:
            found = [TrialRecord(number=-1 - len(known), parameters=what, recipe=recipe)]
            known += found
        runs += found[:1]
    return runs


def _known_runs(sweep: str) -> list[TrialRecord]:
    """Those of all winners that the sweep has had, in the order in which they were begun."""
    known: list[TrialRecord] = []
    while record := load_record(sweep, layout.trial_folder(-1 - len(known))):
        known.append(record)
    return known


def _epochs(plan: Plan, winner: TrialRecord) -> int:
    """For how many epochs the winner's runs train: as many as the trial took to be at its best, or all where the best is picked again."""
    return plan.defaults().epochs if plan.protocol == "paper" else _best_epoch(winner)


def _best_epoch(winner: TrialRecord) -> int:
    return int(winner.epochs[-1]["best_epoch"])


def _announcement(plan: Plan, winner: TrialRecord, runs: list[TrialRecord], lacking: list[TrialRecord]) -> str:
    seeds = ", ".join(str(record.recipe["seed"]) for record in lacking)
    if plan.protocol == "paper":
        said = (
            f"the winner is trial {winner.number} (test {winner.heading} {winner.best:.3f}, by which its epoch was picked): "
            "scoring that epoch in full on the test classes"
        )
        return said if len(runs) == 1 else f"{said}, and training it with other seeds alike; seed {seeds} to run"
    said = (
        f"the winner is trial {winner.number} (validation {winner.heading} {winner.best:.3f}): training it on all training classes "
        f"for {_epochs(plan, winner)} epochs, then scoring it once on the test classes"
    )
    return said if len(runs) == 1 else f"{said}, with each seed; seed {seeds} to run"


def _configuration(plan: Plan, job: dict[str, Any], winner: TrialRecord, record: TrialRecord) -> dict[str, Any]:
    """What `run_winner` is called with."""
    # As published, the trial itself is the first seed's run: nothing about it was held out.
    trained = plan.protocol == "paper" and record.recipe == winner.recipe
    own = {
        "epochs": _best_epoch(winner) if trained else _epochs(plan, winner),
        "trained": storage.join(job["sweep"], layout.TRIALS, winner.folder) if trained else None,
        "first": record.recipe["seed"] == plan.seed,
        "winner": winner.number,
        "facts": _facts(plan, winner),
    }
    return {"number": record.number, "recipe": record.recipe, "job": {**job, **own}}


def _facts(plan: Plan, winner: TrialRecord) -> dict[str, Any]:
    """What the model's `config.json` says of its making."""
    manifest = read_manifest(plan.data)
    best = _best_epoch(winner)
    figures = next((figures for figures in winner.epochs if figures["epoch"] == best), {})
    scores = {k: v for k, v in figures.items() if k.startswith(("recall", "r_precision", "map", "top"))}
    return {
        "dataset": plan.dataset,
        "manifest_sha256": manifest_sha256(plan.data),
        "splits": {name: split.model_dump() for name, split in manifest.splits.items()},
        "protocol": plan.protocol,
        **({"validation": scores} if plan.protocol == "holdout" else {}),
        "versions": versions(),
        "git_revision": git_revision(),
    }


class InTurn(Searcher):
    """Hands Tune configurations that stand from the start."""

    def __init__(self, configurations: list[dict[str, Any]]) -> None:
        super().__init__()
        self._left = list(configurations)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return self._left.pop(0) if self._left else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing follows from it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: each session finds out what is lacking."""


def _outcome(sweep: str, record: TrialRecord) -> Outcome | None:
    return load_outcome(storage.join(sweep, layout.TRIALS, record.folder))


def _looks(plan: Plan, sweep: str) -> int:
    """How often the sweep has looked at the test classes; by `holdout` trials never do."""
    trials = range(plan.trials) if plan.protocol == "paper" else range(0)
    return evaluations(sweep, [*trials, *(record.number for record in _known_runs(sweep))])


def _complete_best(plan: Plan, sweep: str, runs: list[TrialRecord], trials: int) -> None:
    """Write into `best/` what is known only when all runs have ended, of trials how many, how often the test classes were looked at, and
    the interval."""
    place = storage.join(sweep, layout.BEST, "config.json")
    config = json.loads(storage.read(place))
    reproductions = _reproductions(sweep, runs)
    config |= {
        "trials": trials,
        "test_evaluations": _looks(plan, sweep),
        "reproductions": [each.model_dump() for each in reproductions],
        "interval": {name: each.model_dump() for name, each in over_seeds(reproductions).items()},
    }
    storage.write(place, (json.dumps(config, indent=1) + "\n").encode())
    storage.write(storage.join(sweep, layout.BEST, "README.md"), model_card(config).encode())


def _reproductions(sweep: str, runs: list[TrialRecord]) -> list[Reproduction]:
    return [Reproduction.of(record, _outcome(sweep, record)) for record in runs]


def results_of(plan: Plan, sweep: str, records: list[TrialRecord], winner: TrialRecord) -> Results:
    """What came of a sweep after `reproduce`."""
    runs = runs_of(plan, sweep, winner)
    outcome = _outcome(sweep, runs[0])
    assert outcome is not None  # or `reproduce` would have refused
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
        test_evaluations=_looks(plan, sweep),
        reproductions=reproductions,
        interval=over_seeds(reproductions),
        front=[record.number for record in pareto_front(records)] if "flops" in plan.objectives else [],
        retrievals=outcome.retrievals,
        routers=outcome.routers,
        runs=runs,
        earlier_runs=[record for record in _known_runs(sweep) if all(record.number != run.number for run in runs)],
    )
