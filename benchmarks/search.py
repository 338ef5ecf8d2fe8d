"""How many epochs a sweep's search takes to find the best configuration, on recorded curves of real trials.

    python benchmarks/search.py [--seeds 100]

The searcher and the scheduler of a sweep, driven as Tune drives them, one trial at a time, with a recorded curve
(benchmarks/record_curves.py) in place of a training: a learning rate that is sampled gets the curve of the nearest one recorded. A
configuration that comes twice is paid for twice. Against random search: trials of full length, uniform over the recorded
configurations and none of them twice, which is kinder to it than a real space is.

Counted are the epochs until a trial's best score is within 0.005 of the best of all, and within 0.01 and 0.02. Prints median and
quartiles, over the first 20 seeds and over all, and writes search.json beside this file. "never" is the share of searches that hadn't
found it in `PATIENCE` times the epochs of all configurations: ASHA stops a configuration that begins slowly each time it comes.

The settings (orchestration/search/sampler.py, asha.py) were compared on these same curves, with seeds 100 to 139 and 200 to 299, and some of them with
seeds 0 to 19 too (`--tune` compares settings). Most differ by less than the seeds do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from optuna.samplers import RandomSampler
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from dfml.task import BEST_SCORE
from orchestration.search.asha import REDUCTION_FACTOR, TELLING, ResumableASHA
from orchestration.search.objectives import SCORE_ALONE
from orchestration.search.sampler import TPEByNumber
from orchestration.search.searcher import OptunaSearcher
from orchestration.search.space import SearchSpace, read_space

CURVES = Path(__file__).parent / "curves"
NEAR = (0.005, 0.01, 0.02)  # of R@1; the first decides
GOAL = 0.25  # of random search's epochs
PATIENCE = 3


class Table:
    """Recorded curves by configuration: the best score up to each epoch, of the mean over the seeds that it was trained with."""

    def __init__(self, space: SearchSpace, trials: list[dict[str, Any]]) -> None:
        self.space = space
        self.epochs = space.defaults().epochs
        self.rates = np.array(sorted({trial["configuration"]["lr"] for trial in trials}))
        scores: dict[tuple[Any, ...], list[list[float]]] = {}
        for trial in trials:
            scores.setdefault(self._key(trial["configuration"]), []).append(trial["scores"])
        self.curves = {
            key: np.maximum.accumulate([statistics.mean(epoch) for epoch in zip(*several, strict=False)]).tolist()
            for key, several in scores.items()
        }
        self.best = max(curve[-1] for curve in self.curves.values() if curve)

    def curve(self, recipe: dict[str, Any]) -> list[float]:
        nearest = self.rates[np.abs(np.log(self.rates) - math.log(recipe["lr"])).argmin()]
        return self.curves[self._key({**recipe, "lr": float(nearest)})]

    def _key(self, configuration: dict[str, Any]) -> tuple[Any, ...]:
        parameters = self.space.parameters_in(configuration)
        return tuple(sorted((name, str(value)) for name, value in parameters.items()))

    def near(self, within: float) -> int:
        """How many configurations come so near to the best."""
        return sum(curve[-1] >= self.best - within for curve in self.curves.values() if curve)


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


def cost(table: Table, trials: Trials) -> list[float]:
    """Epochs until a trial is within each of `NEAR` of the best; infinite where `PATIENCE` ends before."""
    found = [math.inf] * len(NEAR)
    epochs, limit = 0, PATIENCE * len(table.curves) * table.epochs
    for scores in trials:
        for score in scores:
            epochs += 1
            for i, within in enumerate(NEAR):
                if score >= table.best - within:
                    found[i] = min(found[i], epochs)
        if found[0] < math.inf or epochs > limit:
            break
    return found


def asha(table: Table, reduction_factor: float = REDUCTION_FACTOR, telling: int = TELLING) -> ResumableASHA:
    return ResumableASHA([], table.epochs, table.space.defaults().warm_epochs, reduction_factor, telling)


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

    def way(factor: float, telling: int = TELLING, **more: Any) -> Callable[[int], Trials]:
        return lambda seed: searched(table, TPEByNumber(seed, **more), asha(table, factor, telling))

    return {
        "as it is": way(REDUCTION_FACTOR),
        "first rung an epoch after warm-up": way(REDUCTION_FACTOR, 1),
        "three epochs after": way(REDUCTION_FACTOR, 3),
        "reduction factor 3": way(3),
        "reduction factor 4": way(4),
        "1 start-up trial": way(REDUCTION_FACTOR, n_startup_trials=1),
        "5 start-up trials": way(REDUCTION_FACTOR, n_startup_trials=5),
        "what is alike isn't drawn again": way(REDUCTION_FACTOR, alike=0.0),
    }


def quartiles(costs: list[list[float]], near: int) -> list[float]:
    """Of searches of a kind, for one of `NEAR`; infinities among them aren't interpolated."""
    found = np.percentile([one[near] for one in costs], [25, 50, 75], method="nearest")
    return [float(value) for value in found]


def show(found: dict[str, list[list[float]]], seeds: int) -> None:
    """One table: for the first of `NEAR` in full, for the others the median."""
    others = [f"within {within}, median" for within in NEAR[1:]]
    head = ["", f"within {NEAR[0]}, median", "quartiles", "of random's", "never", *others]
    print(f"{seeds} seeds, epochs\n\n| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    _, random, _ = quartiles(found["random"][:seeds], 0)
    for way, costs in found.items():
        low, median, high = quartiles(costs[:seeds], 0)
        never = np.mean([math.isinf(one[0]) for one in costs[:seeds]])
        rest = [f"{quartiles(costs[:seeds], i)[1]:.0f}" for i in range(1, len(NEAR))]
        cells = [way, f"{median:.0f}", f"{low:.0f} to {high:.0f}", f"{median / random:.2f}", f"{never:.0%}", *rest]
        print(f"| {' | '.join(cells)} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--tune", action="store_true", help="compare settings, on seeds from 200 on; writes nothing")
    arguments = parser.parse_args()
    recorded = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(CURVES.glob("emoji-*.json"))]
    table = Table(read_space(CURVES / "emoji.yaml"), [trial for one in recorded for trial in one["trials"]])
    near = {within: table.near(within) for within in NEAR}
    print(
        f"{len(table.curves)} recorded configurations of {table.epochs} epochs, R@1 on {recorded[0]['validation']['images']} validation images, "
        f"mean of up to {len(recorded)} seeds: best "
        f"{table.best:.4f}; {', '.join(f'{count} within {within} of it' for within, count in near.items())}\n"
    )
    all_ways = ways(table)
    compared = {"random": all_ways["random"], **settings(table)} if arguments.tune else all_ways
    seeds = range(200, 200 + arguments.seeds) if arguments.tune else range(arguments.seeds)
    found = {name: [cost(table, way(seed)) for seed in seeds] for name, way in compared.items()}
    for count in sorted({min(20, arguments.seeds), arguments.seeds}):
        show(found, count)
    if arguments.tune:
        return
    print(f"Goal: {GOAL} of random's.")
    costs = {way: [[None if math.isinf(c) else c for c in one] for one in costs] for way, costs in found.items()}
    content = {
        "configurations": len(table.curves),
        "best": table.best,
        "near": near,
        "within": NEAR,
        "epochs": costs,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
