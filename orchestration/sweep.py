"""A sweep from its plan to its report: search, retrain the winner, score it once, report."""

from __future__ import annotations

import json
from typing import Any

from dfml import storage
from dfml.data.cache import Cache
from dfml.data.manifest import manifest_sha256, read_manifest
from dfml.errors import InvalidInput
from orchestration import layout
from orchestration.cluster import Share, cluster, share
from orchestration.console import Console
from orchestration.interruption import Interruption
from orchestration.plan import Conduct, Plan, git_revision, versions
from orchestration.records import TrialRecord, load_record, load_records
from orchestration.report import write_report
from orchestration.results import Results, best_trial, load_results, show
from orchestration.runs import run
from orchestration.search import ResumableASHA, searcher
from orchestration.trial import run_trial, run_winner


def run_sweep(plan: Plan, sweep: str, console: Console, conduct: Conduct) -> None:
    """Run or resume the sweep in the folder `sweep`, and print its results.

    Args:
        plan: what the sweep is.
        sweep: its folder or URI.
        console: prints.
        conduct: how it is run.

    Raises:
        InvalidInput: the plan can't be run here.
        Interrupted: the user asked to stop; the same call goes on from there.
    """
    resumed = plan.is_stored(sweep)
    if resumed and (results := load_results(sweep)):
        console.say(f"the sweep {sweep} has ended already; these are its results. Choose another --name for a new one")
    else:
        results = _run(plan, sweep, console, resumed, conduct)
    show(results, console)
    console.say(f"model:  {storage.join(sweep, layout.BEST)}")
    console.say(f"report: {storage.join(sweep, layout.REPORT, 'index.html')}")


def _run(plan: Plan, sweep: str, console: Console, resumed: bool, conduct: Conduct) -> Results:
    records = load_records(sweep) if resumed else []
    if resumed:
        console.resumed(records)
    console.say("starting Ray …")
    interruption = Interruption()
    with cluster() as where:
        interruption.install()
        part = share(plan.workers_per_trial)
        job = _job(plan, sweep, part) | conduct.model_dump()
        if not resumed:
            plan.store(sweep)
        console.say(where)
        console.say(
            f"{plan.trials} trials, {part.concurrent} at a time, each with {part.workers} worker(s) of "
            f"{part.cpus} CPU core(s){' and a GPU' if part.gpu else ''}; results in {sweep}"
        )
        _search(plan, {**job, "epochs": plan.defaults().epochs}, records, part, console, interruption)
        winner = best_trial(records)
        if winner is None:
            raise InvalidInput(
                f"no trial of {sweep} came to a validation score, so there is no winner; the reasons stand above: mend them and choose another --name"
            )
        epochs = int(winner.epochs[-1]["best_epoch"])
        if not storage.exists(storage.join(sweep, layout.OUTCOME)):
            _retrain(plan, {**job, "epochs": epochs}, winner, console, interruption)
    results = _results(plan, sweep, records, winner, epochs)
    write_report(results, Cache(conduct.cache_folder(), plan.cache_size))
    results.save()
    return results


def _job(plan: Plan, sweep: str, part: Share) -> dict[str, Any]:
    """What all trials of a sweep share; plain values, for they travel through Ray."""
    return {
        "sweep": sweep,
        "data": plan.data,
        "cache_size": plan.cache_size,
        "seed": plan.seed,
        "workers": part.workers,
        "cpus": part.cpus,
        "gpu": part.gpu,
    }


def _search(
    plan: Plan,
    job: dict[str, Any],
    records: list[TrialRecord],
    part: Share,
    console: Console,
    interruption: Interruption,
) -> None:
    """Run the trials that haven't ended yet."""
    left = plan.trials - sum(record.state != "running" for record in records)
    if left == 0:
        return
    recipe = plan.defaults()
    run(
        run_trial,
        job["sweep"],
        records,
        console,
        interruption,
        trials=left,
        concurrent=part.concurrent,
        search=searcher(plan.space, plan.seed, job, records),
        scheduler=ResumableASHA(
            records, recipe.epochs, max([recipe.warm_epochs, *plan.space.values_of("warm_epochs")])
        ),
    )
    records.sort(key=lambda record: record.number)


def _retrain(
    plan: Plan,
    job: dict[str, Any],
    winner: TrialRecord,
    console: Console,
    interruption: Interruption,
) -> None:
    """Train the winner's recipe on all training classes and score it on the test classes."""
    console.say(
        f"the winner is trial {winner.number} (validation {winner.heading} {winner.best:.3f}): training it on all training classes "
        f"for {job['epochs']} epochs, then scoring it once on the test classes"
    )
    record = load_record(job["sweep"], layout.WINNER) or TrialRecord(number=-1, parameters={}, recipe=winner.recipe)
    facts = _facts(plan, winner, job["epochs"])
    config = {"number": -1, "recipe": winner.recipe, "job": {**job, "facts": facts}}
    run(run_winner, job["sweep"], [record], console, interruption, trials=1, config=config)
    if record.state == "failed":
        raise RuntimeError(f"the winner's retraining failed: {record.reason}")


def _facts(plan: Plan, winner: TrialRecord, epochs: int) -> dict[str, Any]:
    """What the model's `config.json` says of its making."""
    manifest = read_manifest(plan.data)
    return {
        "dataset": plan.dataset,
        "manifest_sha256": manifest_sha256(plan.data),
        "splits": {name: split.model_dump() for name, split in manifest.splits.items()},
        "protocol": plan.protocol,
        "seed": plan.seed,
        "trial": winner.number,
        "trials": plan.trials,
        "epochs": epochs,
        "validation": {
            k: v for k, v in winner.epochs[epochs - 1].items() if k.startswith(("recall", "r_precision", "map", "top"))
        },
        "versions": versions(),
        "git_revision": git_revision(),
    }


def _results(plan: Plan, sweep: str, records: list[TrialRecord], winner: TrialRecord, epochs: int) -> Results:
    outcome = json.loads(storage.read(storage.join(sweep, layout.OUTCOME)))
    return Results(
        sweep=sweep,
        data=plan.data,
        protocol=plan.protocol,
        seed=plan.seed,
        trials=records,
        winner=winner.number,
        winner_epochs=epochs,
        **outcome,
    )
