"""What a sweep will take: rungs, trials at once and epochs, told before anything is spent."""

from __future__ import annotations

from orchestration.cluster.share import DEFAULT_WORKERS, Share
from orchestration.plan import Plan
from orchestration.records import TrialRecord
from orchestration.search.asha import REDUCTION_FACTOR, first_rung


def rungs(epochs: int, warm_epochs: int) -> list[int]:
    """The epochs after which ASHA may stop a trial, ascending; empty where it can't."""
    found, rung = [], first_rung(epochs, warm_epochs)
    while rung < epochs:
        found.append(rung)
        rung *= REDUCTION_FACTOR
    return found


def expected_epochs(epochs: int, rungs: list[int]) -> float:
    """Epochs of a trial in the mean, where each rung lets one of REDUCTION_FACTOR go on."""
    reached, share, total = 0, 1.0, 0.0
    for rung in [*rungs, epochs]:
        total += share * (rung - reached)
        reached, share = rung, share / REDUCTION_FACTOR
    return total


def forecast(plan: Plan, share: Share, records: list[TrialRecord]) -> list[str]:
    """The plan in lines.

    Args:
        plan: of the sweep.
        share: what a trial gets of the cluster.
        records: of trials of earlier sessions.
    """
    recipe = plan.defaults()
    steps = rungs(recipe.epochs, plan.longest_warm_up())
    ended = sum(record.state != "running" for record in records)
    left = plan.trials - ended
    first = min(left, len(plan.space.first_untried([record.parameters for record in records])))
    origin = f"first {first} from the search space's file, then sampled" if first else "sampled"
    workers = f"{share.workers} worker(s)" + (
        f" ({share.min_workers} if nodes are lost)" if share.min_workers < share.workers else ""
    )
    if plan.workers_per_trial is None:
        workers += f", as many as fit up to {DEFAULT_WORKERS} (--workers-per-trial sets them),"
    stops = (
        f"ASHA may stop a trial after epoch {', '.join(map(str, steps))} of {recipe.epochs}"
        if steps
        else f"no trial is stopped before its {recipe.epochs} epochs"
    )
    again = "" if plan.reproductions == 1 else f", with {plan.reproductions} seeds"
    lines = [
        f"{left} trial(s) to run{f', {ended} have ended' if ended else ''}: {origin}",
        f"searched: {', '.join(plan.space.search)}; objectives: {', '.join(plan.objectives)}; protocol {plan.protocol}",
        stops,
        f"each trial: {workers} of {share.cpus} CPU core(s){' and a GPU' if share.gpu else ''}; {share.concurrent} at once",
        f"epochs of all trials: at most {left * recipe.epochs}, about {left * expected_epochs(recipe.epochs, steps):.0f} if each rung stops "
        f"{REDUCTION_FACTOR - 1} of {REDUCTION_FACTOR}",
    ]
    if plan.budget is not None:
        lines.append(f"the search ends after {plan.budget} at the latest")
    if plan.protocol == "holdout":
        lines.append(
            f"then the winner is trained on all training classes{again}: up to {plan.reproductions * recipe.epochs} epochs more"
        )
    elif plan.reproductions > 1:
        more = plan.reproductions - 1
        lines.append(f"then the winner is trained with {more} more seed(s): {more * recipe.epochs} epochs more")
    return lines
