"""A sweep from its plan to its report: search, retrain the winner, evaluate it once, report."""

from __future__ import annotations

from contextlib import ExitStack

from dfml import storage
from dfml.data.streaming.cache import Cache
from dfml.errors import InvalidInput, RunFailed
from orchestration.callback import SweepCallback, Tracker
from orchestration.callbacks.console import Console
from orchestration.callbacks.prometheus import PrometheusMetrics
from orchestration.callbacks.wandb_runs import WandbRuns
from orchestration.cluster.connection import check_readable, cluster
from orchestration.cluster.interruption import Interruption
from orchestration.cluster.resources import Demand, TrialResources, trial_resources
from orchestration.forecast import forecast, trials_left
from orchestration.job import SweepSettings
from orchestration.plan import ExecutionOptions, Plan
from orchestration.report.report import is_written, write_report
from orchestration.report.results import Results, best_trial, forget_results, load_results, show
from orchestration.search.asha import ResumableASHA
from orchestration.search.budget_stopper import OVER_BUDGET, BudgetStopper, ElapsedTime, stop_interrupted
from orchestration.search.searcher import searcher
from orchestration.search.study import StudyFile
from orchestration.sweep_file import SweepFile
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.driver_log import driver_log
from orchestration.sweep_folder.lease import hold
from orchestration.sweep_folder.records import TrialRecord, load_records
from orchestration.trials.checkpoints import clear_partial
from orchestration.trials.retrievals import pictures_of
from orchestration.trials.runs import RunContext, run
from orchestration.trials.trial import run_trial
from orchestration.winner import reproduce, results_of, runs_of


def run_sweep(plan: Plan, sweep: str, console: Console, options: ExecutionOptions, extend: bool = False) -> None:
    """Run or resume a sweep, and print its results.

    Args:
        plan: the sweep's plan.
        sweep: the sweep's folder or URI.
        console: the console to print on.
        options: options that don't change the results.
        extend: whether the plan may widen the plan that the folder was begun with.

    Raises:
        InvalidInput: the plan can't be run here.
        RunFailed: no trial has a score, or the winner's training failed.
        Interrupted: the user asked to stop; the same call resumes the sweep.
    """
    plan, stored, extended = _opened(plan, sweep, extend)
    trackers: list[Tracker] = []
    if stored and not extended and (results := load_results(sweep)):
        console.print(
            f"the sweep {sweep} has ended already; its results follow. Choose another --name for a new sweep, or "
            "--extend this one"
        )
    else:
        options.check_workers(plan.workers_per_trial)
        trackers = _trackers(plan, sweep, console, options)
        with ExitStack() as stack:
            stack.enter_context(hold(sweep, console.print))
            for tracker in trackers:
                stack.enter_context(tracker)
            stack.enter_context(console.live())
            results = _run(plan, sweep, console, options, stored, extended, trackers)
    show(results, console)
    if not is_written(sweep):
        # An earlier session ended between its results and its report.
        _report(plan, results, options)
    console.print(f"model:  {storage.join(sweep, layout.BEST)}")
    console.print(f"report: {storage.join(sweep, layout.REPORT, 'index.html')}")
    for tracker in trackers:
        console.print(f"{tracker.name}:  {tracker.where}")


def _trackers(plan: Plan, sweep: str, console: Console, options: ExecutionOptions) -> list[Tracker]:
    """Return the trackers of experiments that the user wants."""
    return [] if options.wandb == "off" else [WandbRuns(plan, sweep, options.wandb, console)]


def dry_run(plan: Plan, sweep: str, console: Console, options: ExecutionOptions, extend: bool = False) -> None:
    """Print what `run_sweep` would do, and on which cluster; write nothing.

    Raises:
        InvalidInput: the plan can't be run here.
    """
    plan, stored, extended = _opened(plan, sweep, extend)
    records = load_records(sweep) if stored else []
    if stored and not extended and load_results(sweep):
        console.print(f"the sweep {sweep} has ended already; its results would be printed, and nothing would be run")
        return
    options.check_workers(plan.workers_per_trial)
    with cluster() as where:
        resources = _resources(plan, options, records, begun=stored is not None)
        console.print(where)
        for line in forecast(plan, resources, records):
            console.print(line)
        console.print(f"results would be in {sweep}; nothing was started")


def _opened(plan: Plan, sweep: str, extend: bool) -> tuple[Plan, SweepFile | None, bool]:
    """Return the plan with its workers, the sweep's file, and whether the plan extends the sweep.

    The file is None if the sweep is new.

    Raises:
        InvalidInput: the folder holds another sweep, or there is none to extend.
    """
    stored = SweepFile.load(sweep)
    if stored is None:
        if extend:
            raise InvalidInput(f"--extend: there is no sweep {sweep} yet; leave out --extend to begin it")
        return plan, None, False
    plan = stored.with_workers(plan)
    if extend and stored.is_extended_by(plan, sweep):
        return plan, stored, True
    stored.check_same(plan, sweep)
    return plan, stored, False


def _run(
    plan: Plan,
    sweep: str,
    console: Console,
    options: ExecutionOptions,
    stored: SweepFile | None,
    extended: bool,
    trackers: list[Tracker],
) -> Results:
    records = load_records(sweep) if stored else []
    if stored:
        console.resumed(records)
    console.print("starting Ray …")
    interruption = Interruption()
    with cluster() as where, PrometheusMetrics(_labels(plan), records) as metrics, ExitStack() as stack:
        interruption.install()
        resources = _resources(plan, options, records, begun=stored is not None)
        lines = [where, *forecast(plan, resources, records)]
        plan = plan.model_copy(update={"workers_per_trial": resources.workers})
        check_readable(plan.data)
        for weights in plan.weights_files():
            check_readable(weights)
        check_readable(sweep)
        if extended:
            # Delete old results before storing the new plan, so that the two never disagree.
            forget_results(sweep)
        if stored is None or extended:
            SweepFile.of(plan, stored).save(sweep)
        # Not before: a sweep that can't be run here leaves nothing.
        stack.enter_context(driver_log(sweep, options.verbose))
        for line in lines:
            console.print(line)
        console.print(f"results in {sweep}")
        settings = sweep_settings(plan, sweep, resources, options)
        callbacks: list[SweepCallback] = [console, metrics, *trackers]
        for callback in callbacks:
            callback.sweep_started(settings)
        context = RunContext(sweep, resources, console, interruption, callbacks)
        _search(plan, settings, records, context)
        winner = best_trial(records)
        if winner is None:
            raise RunFailed(
                f"no trial of {sweep} reached a validation score, so there is no winner; see the reasons above, fix "
                "them and choose another --name"
            )
        reproduce(plan, settings, winner, len(records), context)
    runs = runs_of(plan, sweep, winner)
    for record in [*records, *runs]:
        # Again: uploads may have been under way when a trial was stopped or a session interrupted.
        clear_partial(sweep, record.folder)
    results = results_of(plan, sweep, records, winner)
    # Before the report: if a chart fails, the same command prints the results and draws it again.
    results.save()
    _report(plan, results, options)
    for callback in callbacks:
        callback.sweep_ended(runs[0], results.test["winner"], pictures_of(results.retrievals))
    return results


def _report(plan: Plan, results: Results, options: ExecutionOptions) -> None:
    stored = SweepFile.load(results.sweep)
    # Written before anything runs.
    assert stored is not None
    write_report(results, stored, Cache(options.cache_folder(), plan.cache_size))


def _labels(plan: Plan) -> dict[str, str]:
    """Return the labels of all metrics of this sweep."""
    return {"sweep": plan.name, "dataset": plan.dataset}


def _resources(plan: Plan, options: ExecutionOptions, records: list[TrialRecord], begun: bool) -> TrialResources:
    """Return the resources of each trial on the connected cluster.

    Runs of the winner have the same number of workers: another number changes the rounding errors,
    which training amplifies, so the scores would depend on the cluster on which a sweep ends.

    Raises:
        InvalidInput: the cluster can't place them, or a worker would have no image of a batch.
    """
    resources = trial_resources(
        Demand(
            trials=trials_left(plan, records),
            batch_size=plan.smallest_batch(),
            runs=plan.reproductions,
            workers=plan.workers_per_trial,
            begun=begun,
            min_workers=options.min_workers,
            concurrent=options.concurrent_trials,
            gpus_per_worker=options.gpus_per_worker,
        )
    )
    plan.check_workers(resources.workers)
    return resources


def sweep_settings(plan: Plan, sweep: str, resources: TrialResources, options: ExecutionOptions) -> SweepSettings:
    """Return what all jobs of a session share."""
    return SweepSettings(
        sweep=sweep,
        labels=_labels(plan),
        data=plan.data,
        protocol=plan.protocol,
        seed=plan.seed,
        workers=resources.workers,
        min_workers=resources.min_workers,
        cpus=resources.cpus,
        gpus=resources.gpus,
        cache_dir=options.cache_dir,
        cache_size=plan.cache_size,
        checkpoint_steps=options.checkpoint_steps,
        deterministic=options.deterministic,
    )


def _search(plan: Plan, settings: SweepSettings, records: list[TrialRecord], context: RunContext) -> None:
    """Run the trials that haven't ended yet."""
    epochs = plan.defaults().epochs
    left = trials_left(plan, records)
    stopper = BudgetStopper(plan.budget, ElapsedTime(context.sweep), records)
    search = searcher(plan.space, plan.seed, settings, epochs, records, plan.objectives, stopper.reached)
    study_file = StudyFile(search.sweep_study, context.sweep)
    study_file.write()
    if left > 0 and stopper.reached():
        context.console.print(f"no further trial is started: {OVER_BUDGET} ({plan.budget})")
    elif left > 0:
        run(
            run_trial,
            context,
            records,
            trials=left,
            search=search,
            scheduler=ResumableASHA(records, epochs, plan.longest_warm_up()),
            stopper=stopper,
            callbacks=[search, study_file],
        )
    records.sort(key=lambda record: record.number)
    for record in stop_interrupted(records):
        record.save(context.sweep)
        for callback in [search, *context.callbacks]:
            callback.trial_ended(record)
    # Again: the storage may have been unavailable while trials ran.
    study_file.write()
