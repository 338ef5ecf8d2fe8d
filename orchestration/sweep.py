"""A sweep from its plan to its report: search, retrain the winner, score it once, report."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from dfml import storage
from dfml.data.cache import Cache
from dfml.errors import InvalidInput
from orchestration import layout
from orchestration.cluster.connection import check_readable, cluster
from orchestration.cluster.share import Share, share
from orchestration.console import Console
from orchestration.follower import Follower
from orchestration.forecast import forecast
from orchestration.identity import begun, is_stored, is_widened, store, with_its_workers
from orchestration.interruption import Interruption
from orchestration.lease import hold
from orchestration.monitoring.metrics import Metrics
from orchestration.monitoring.wandb_runs import WandbRuns
from orchestration.plan import Conduct, Plan
from orchestration.records import TrialRecord, load_records
from orchestration.results.report import is_written, write_report
from orchestration.results.summary import Results, best_trial, forget_results, load_results, show
from orchestration.results.winner import reproduce, results_of, runs_of
from orchestration.search.asha import ResumableASHA
from orchestration.search.searcher import searcher
from orchestration.search.spent import OVER_BUDGET, Clock, Spent, end_cut
from orchestration.search.study import StudyFile
from orchestration.trials.retention import clear_partial
from orchestration.trials.runs import Setting, run
from orchestration.trials.trial import run_trial


def run_sweep(plan: Plan, sweep: str, console: Console, conduct: Conduct, extend: bool = False) -> None:
    """Run or resume the sweep in the folder `sweep`, and print its results.

    Args:
        plan: what the sweep is.
        sweep: its folder or URI.
        console: prints.
        conduct: how it is run.
        extend: whether the plan may widen the one that the folder was begun with.

    Raises:
        InvalidInput: the plan can't be run here.
        Interrupted: the user asked to stop; the same call goes on from there.
    """
    plan = with_its_workers(plan, sweep)
    widened = extend and is_widened(plan, sweep)
    resumed = widened or is_stored(plan, sweep)
    tracker = None
    if resumed and not widened and (results := load_results(sweep)):
        console.say(
            f"the sweep {sweep} has ended already; these are its results. Choose another --name for a new one, or --extend this one"
        )
    else:
        tracker = None if conduct.wandb == "off" else WandbRuns(plan, sweep, conduct.wandb, console)
        with hold(sweep, console.say), tracker or nullcontext(), console.live():
            results = _run(plan, sweep, console, conduct, resumed, widened, tracker)
    show(results, console)
    if not is_written(sweep):
        _report(plan, results, conduct)  # an earlier session came to its results and no further
    console.say(f"model:  {storage.join(sweep, layout.BEST)}")
    console.say(f"report: {storage.join(sweep, layout.REPORT, 'index.html')}")
    if tracker is not None:
        console.say(f"wandb:  {tracker.where}")


def dry_run(plan: Plan, sweep: str, console: Console, conduct: Conduct, extend: bool = False) -> None:
    """Print what `run_sweep` would do, and where; nothing is written.

    Raises:
        InvalidInput: as `run_sweep`.
    """
    plan = with_its_workers(plan, sweep)
    widened = extend and is_widened(plan, sweep)
    resumed = widened or is_stored(plan, sweep)
    records = load_records(sweep) if resumed else []
    if resumed and not widened and load_results(sweep):
        console.say(f"the sweep {sweep} has ended already: its results would be printed, and nothing would be run")
        return
    with cluster() as where:
        part = share(plan.workers_per_trial, conduct.concurrent_trials, conduct.min_workers)
        plan.check_workers(part.workers)
        console.say(where)
        for line in forecast(plan, part, records):
            console.say(line)
        console.say(f"results would lie in {sweep}; nothing was started")


def _run(
    plan: Plan,
    sweep: str,
    console: Console,
    conduct: Conduct,
    resumed: bool,
    widened: bool,
    tracker: WandbRuns | None,
) -> Results:
    records = load_records(sweep) if resumed else []
    if resumed:
        console.resumed(records)
    console.say("starting Ray …")
    interruption = Interruption()
    with cluster() as where, Metrics(_labels(plan), records) as metrics:
        interruption.install()
        part = share(plan.workers_per_trial, conduct.concurrent_trials, conduct.min_workers)
        plan.check_workers(part.workers)
        told = forecast(plan, part, records)
        plan = plan.model_copy(update={"workers_per_trial": part.workers})
        check_readable(plan.data)
        for weights in plan.weights_files():
            check_readable(weights)
        check_readable(sweep)
        if widened:
            forget_results(sweep)  # before the plan is that of another sweep than the results
        if not resumed or widened:
            store(plan, sweep)
        for line in [where, *told]:
            console.say(line)
        console.say(f"results in {sweep}")
        if tracker is not None:
            tracker.plan = plan
            console.say(f"Weights & Biases: {tracker.where}")
        job = _job(plan, sweep, part) | conduct.model_dump(include={"cache_dir", "checkpoint_steps"})
        followers: list[Follower] = [metrics, *([tracker] if tracker is not None else [])]
        setting = Setting(sweep, part, console, interruption, followers)
        _search(plan, {**job, "epochs": plan.defaults().epochs}, records, setting)
        winner = best_trial(records)
        if winner is None:
            raise InvalidInput(
                f"no trial of {sweep} came to a validation score, so there is no winner; the reasons stand above: mend them and choose another --name"
            )
        reproduce(plan, job, winner, len(records), setting)
    runs = runs_of(plan, sweep, winner)
    for record in [*records, *runs]:
        clear_partial(sweep, record.folder)  # again: what was on its way when a trial was stopped, or a session cut
    results = results_of(plan, sweep, records, winner)
    results.save()  # before the report: should a figure fail, the same command shows the results and draws again
    _report(plan, results, conduct)
    if tracker is not None:
        tracker.concluded(runs[0], results.test["winner"])
    return results


def _report(plan: Plan, results: Results, conduct: Conduct) -> None:
    write_report(results, begun(results.sweep), Cache(conduct.cache_folder(), plan.cache_size))


def _labels(plan: Plan) -> dict[str, str]:
    """Of its metrics."""
    return {"sweep": plan.name, "dataset": plan.dataset}


def _job(plan: Plan, sweep: str, part: Share) -> dict[str, Any]:
    """What all trials of a sweep share; plain values, for they travel through Ray."""
    return {
        "sweep": sweep,
        "labels": _labels(plan),
        "data": plan.data,
        "protocol": plan.protocol,
        "cache_size": plan.cache_size,
        "seed": plan.seed,
        "workers": part.workers,
        "min_workers": part.min_workers,
        "cpus": part.cpus,
        "gpu": part.gpu,
    }


def _search(plan: Plan, job: dict[str, Any], records: list[TrialRecord], setting: Setting) -> None:
    """Run the trials that haven't ended yet."""
    study = StudyFile(setting.sweep, plan.space, plan.objectives, records)
    left = plan.trials - sum(record.state != "running" for record in records)
    spent = Spent(plan.budget, Clock(setting.sweep), records)
    if left > 0 and spent.reached():
        setting.console.say(f"no trial is started any more: {OVER_BUDGET} ({plan.budget})")
    elif left > 0:
        run(
            run_trial,
            setting,
            records,
            trials=left,
            search=searcher(plan.space, plan.seed, job, records, plan.objectives, spent.reached),
            scheduler=ResumableASHA(records, plan.defaults().epochs, plan.longest_warm_up()),
            spent=spent,
            follow=study.update,
        )
    records.sort(key=lambda record: record.number)
    for record in end_cut(records):
        record.save(setting.sweep)
        study.update(record)
    study.write()  # while trials ran the storage may have been away
