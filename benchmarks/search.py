"""How many epochs a sweep's search takes to find the best configuration, on recorded curves of real trials.

    python benchmarks/search.py [--seeds 20]

The searcher and the scheduler of a sweep, driven as Tune drives them, one trial at a time, with a recorded curve
(benchmarks/record_curves.py) in place of a training: a learning rate that is sampled gets the curve of the nearest one recorded. A
configuration that comes twice is paid for twice. Against random search: trials of full length, uniform over the recorded
configurations and none of them twice, which is kinder to it than a real space is.

Counted are the epochs until a trial's best score is within 0.005 of the best of all. Prints median and quartiles over the seeds and
writes search.json beside this file. The reduction factor and the start-up trials (orchestration/search.py) were chosen on these
curves with seeds 100 to 119 (`--tune`), so other seeds, but the same curves; that what is alike is drawn again, on the reported seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from optuna.samplers import RandomSampler
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from dfml.task import BEST_SCORE
from orchestration.objectives import SCORE_ALONE
from orchestration.search import REDUCTION_FACTOR, STARTUP_TRIALS, OptunaSearcher, ResumableASHA, TPEByNumber
from orchestration.search_space import SearchSpace, read_space

CURVES = Path(__file__).parent / "curves"
NEAR = 0.005  # of R@1
GOAL = 0.25  # of random search's epochs
PATIENCE = 3


class Table:
    """Recorded curves by configuration: each the best score up to each epoch."""

    def __init__(self, space: SearchSpace, trials: list[dict[str, Any]]) -> None:
        self.space = space
        self.epochs = space.defaults().epochs
        self.rates = np.array(sorted({trial["configuration"]["lr"] for trial in trials}))
        self.curves = {
            self._key(trial["configuration"]): np.maximum.accumulate(trial["scores"]).tolist() for trial in trials
        }
        if len(self.curves) < len(trials):
            raise ValueError("a configuration is recorded twice")
        self.best = max(curve[-1] for curve in self.curves.values() if curve)

    def curve(self, recipe: dict[str, Any]) -> list[float]:
        nearest = self.rates[np.abs(np.log(self.rates) - math.log(recipe["lr"])).argmin()]
        return self.curves[self._key({**recipe, "lr": float(nearest)})]

    def _key(self, configuration: dict[str, Any]) -> tuple[Any, ...]:
        parameters = self.space.parameters_in(configuration)
        return tuple(sorted((name, str(value)) for name, value in parameters.items()))

    def reached(self, score: float) -> bool:
        return score >= self.best - NEAR


Trials = Iterator[list[float]]  # the scores that each trial in turn comes to


def searched(table: Table, sampler: Any, scheduler: Any) -> Trials:
    """A sweep's trials, one after another."""
    search = OptunaSearcher(table.space, sampler, {"epochs": table.epochs}, [], SCORE_ALONE)
    for number in itertools.count():
        config = search.suggest(str(number))
        trial: Any = SimpleNamespace(trial_id=str(number), config=config)
        scheduler.on_trial_add(None, trial)
        curve = table.curve(config["recipe"])
        result: dict[str, Any] = {}
        for epoch, score in enumerate(curve, start=1):
            result = {"epoch": epoch, BEST_SCORE: score}
            search.on_trial_result(str(number), result)
            if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                break
        search.on_trial_complete(str(number), result, error=len(curve) < table.epochs and epoch == len(curve))
        scheduler.on_trial_complete(None, trial, result)
        yield curve[:epoch]


def drawn(table: Table, seed: int) -> Trials:
    """Random search: whole trials, each configuration once."""
    curves = list(table.curves.values())
    for i in np.random.default_rng(seed).permutation(len(curves)):
        yield curves[i]


def cost(table: Table, trials: Trials) -> tuple[float, float]:
    """Epochs and trials until one is near the best; infinite where none is within `PATIENCE` times what all configurations take."""
    epochs, limit = 0, PATIENCE * len(table.curves) * table.epochs
    for number, scores in enumerate(trials, start=1):
        for score in scores:
            epochs += 1
            if table.reached(score):
                return epochs, number
        if epochs > limit:
            break
    return math.inf, math.inf


def asha(table: Table, reduction_factor: float = REDUCTION_FACTOR) -> ResumableASHA:
    return ResumableASHA([], table.epochs, table.space.defaults().warm_epochs, reduction_factor)


def ways(table: Table) -> dict[str, Callable[[int], Trials]]:
    """Each by its seed."""
    return {
        "random": lambda seed: drawn(table, seed),
        "random + ASHA": lambda seed: searched(table, RandomSampler(seed=seed), asha(table)),
        "TPE": lambda seed: searched(table, TPEByNumber(seed), FIFOScheduler()),
        "TPE + ASHA (a sweep's)": lambda seed: searched(table, TPEByNumber(seed), asha(table)),
    }


def settings(table: Table) -> dict[str, Callable[[int], Trials]]:
    """What `--tune` compares."""

    def way(factor: float, startup: int, more: dict[str, Any]) -> Callable[[int], Trials]:
        return lambda seed: searched(table, TPEByNumber(seed, n_startup_trials=startup, **more), asha(table, factor))

    return {
        f"reduction {factor}, start-up {startup}{''.join(f', {name}={value}' for name, value in more.items())}": way(
            factor, startup, more
        )
        for factor in (2, 3, 4)
        for startup in (3, 5, 10)
        for more in ({}, {"multivariate": False})
    }


def measure(table: Table, ways: dict[str, Callable[[int], Trials]], seeds: range) -> dict[str, dict[str, list[int]]]:
    found = {}
    for name, way in ways.items():
        costs = [cost(table, way(seed)) for seed in seeds]
        found[name] = {"epochs": [epochs for epochs, _ in costs], "trials": [trials for _, trials in costs]}
    return found


def show(found: dict[str, dict[str, list[int]]], random_median: float) -> None:
    print("| | epochs, median | quartiles | of random's | trials, median |\n| --- | ---: | ---: | ---: | ---: |")
    for name, costs in found.items():
        low, median, high = np.percentile(costs["epochs"], [25, 50, 75])
        trials = np.median(costs["trials"])
        print(f"| {name} | {median:.0f} | {low:.0f} to {high:.0f} | {median / random_median:.2f} | {trials:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tune", action="store_true", help="compare settings, on seeds of their own; writes nothing")
    arguments = parser.parse_args()
    recorded = json.loads((CURVES / "emoji.json").read_text(encoding="utf-8"))
    table = Table(read_space(CURVES / "emoji.yaml"), recorded["trials"])
    near = sum(table.reached(curve[-1]) for curve in table.curves.values() if curve)
    print(
        f"{len(table.curves)} recorded trials of {table.epochs} epochs, R@1 on {recorded['validation']['images']} validation images: best "
        f"{table.best:.4f}, {near} within {NEAR} of it\n"
    )
    seeds = range(100, 100 + arguments.seeds) if arguments.tune else range(arguments.seeds)
    found = measure(
        table, {"random": ways(table)["random"], **settings(table)} if arguments.tune else ways(table), seeds
    )
    random_median = float(np.median(found["random"]["epochs"]))
    show(found, random_median)
    if arguments.tune:
        return
    ours = float(np.median(found["TPE + ASHA (a sweep's)"]["epochs"]))
    print(
        f"\nReduction factor {REDUCTION_FACTOR} and {STARTUP_TRIALS} start-up trials were chosen on the same curves with other seeds. Goal: {GOAL} of "
        f"random's; {'reached' if ours <= GOAL * random_median else 'not reached'}."
    )
    content = {
        "seeds": arguments.seeds,
        "configurations": len(table.curves),
        "best": table.best,
        "near": near,
        "found": found,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
