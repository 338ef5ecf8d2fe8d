"""A forecast of a sweep, printed before it starts: rungs, concurrent trials and epochs."""

from __future__ import annotations

from dfml.protocol import PROTOCOLS
from orchestration.cluster.resources import TrialResources
from orchestration.plan import Plan
from orchestration.search.asha import REDUCTION_FACTOR, first_rung
from orchestration.sweep_folder.records import TrialRecord


def rungs(epochs: int, warm_epochs: int) -> list[int]:
    """Return the epochs after which ASHA may stop a trial, ascending; empty if there are none."""
    found, rung = [], first_rung(epochs, warm_epochs)
    while rung < epochs:
        found.append(rung)
        rung *= REDUCTION_FACTOR
    return found


def expected_epochs(epochs: int, rungs: list[int]) -> float:
    """Return the mean epochs per trial if each rung lets one of REDUCTION_FACTOR continue."""
    reached, share, total = 0, 1.0, 0.0
    for rung in [*rungs, epochs]:
        total += share * (rung - reached)
        reached, share = rung, share / REDUCTION_FACTOR
    return total


def trials_left(plan: Plan, records: list[TrialRecord]) -> int:
    """Return the number of trials that haven't ended."""
    return plan.trials - sum(record.state != "running" for record in records)


def forecast(plan: Plan, resources: TrialResources, records: list[TrialRecord]) -> list[str]:
    """Describe a plan in lines of text.

    Args:
        plan: the sweep's plan.
        resources: the resources per trial.
        records: records of trials of earlier sessions.
    """
    recipe = plan.defaults()
    steps = rungs(recipe.epochs, plan.longest_warm_up())
    left = trials_left(plan, records)
    ended = plan.trials - left
    first = min(left, len(plan.space.first_untried([record.parameters for record in records])))
    origin = f"the first {first} from the search-space file, then sampled" if first else "sampled"
    workers = f"{resources.workers} worker(s)" + (
        f" (at least {resources.min_workers})" if resources.min_workers < resources.workers else ""
    )
    gpu = ""
    if resources.gpus:
        gpu = " and a GPU" if resources.gpus == 1 else f" and {resources.gpus:g} of a GPU"
    stops = (
        f"ASHA may stop a trial after epoch {', '.join(map(str, steps))} of {recipe.epochs}"
        if steps
        else f"no trial is stopped before epoch {recipe.epochs}, its last"
    )
    again = "" if plan.reproductions == 1 else f", with {plan.reproductions} seeds"
    lines = [
        f"{left} trial(s) to run{f', {ended} have ended' if ended else ''}: {origin}",
        f"searched: {', '.join(plan.space.search)}; objectives: {', '.join(plan.objectives)}; protocol {plan.protocol}",
        stops,
        f"each trial: {workers} of {resources.cpus} CPU core(s){gpu}; {resources.concurrent} at once "
        f"({resources.reason})",
        f"epochs of all trials: at most {left * recipe.epochs}, about "
        f"{left * expected_epochs(recipe.epochs, steps):.0f} if each rung stops "
        f"{REDUCTION_FACTOR - 1} of {REDUCTION_FACTOR}",
    ]
    if plan.budget is not None:
        lines.append(f"the search ends after {plan.budget} at the latest")
    if not PROTOCOLS[plan.protocol].scores_on_test:
        lines.append(
            f"then the winner is trained on all training classes{again}: up to "
            f"{plan.reproductions * recipe.epochs} epochs more"
        )
    elif plan.reproductions > 1:
        more = plan.reproductions - 1
        lines.append(f"then the winner is trained with {more} more seed(s): {more * recipe.epochs} epochs more")
    return lines
