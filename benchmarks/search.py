"""Count the epochs that a sweep's search needs to find the best of the recorded configurations.

    python benchmarks/search.py [--seeds 100]

The sweep's own searcher and scheduler run as under Tune, one trial at a time, but a recorded curve
(benchmarks/record_curves.py) replaces each training: a sampled learning rate gets the curve of the
nearest recorded rate. A configuration that is sampled twice is paid for twice. The comparison is
random search: trials of full length, uniform over the recorded configurations and none twice,
which favors random search more than a real space would.

The count ends when a trial's best score is within 0.005 of the best of all; 0.01 and 0.02 are
counted too. Print median and quartiles over the first 20 seeds and over all, and write search.json
next to this file. "never" is the share of searches that didn't find it within `PATIENCE` times the
epochs of all configurations: ASHA stops a configuration that begins slowly each time.

The settings (orchestration/search/sampler.py, asha.py) were compared on these same curves, with
seeds 100 to 139 and 200 to 299, and some of them with seeds 0 to 19 too (`--tune` compares
settings). Most differ by less than the seeds do.
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

from dfml.recipe import Recipe, recipe_from
from dfml.task import BEST_SCORE
from orchestration.job import SweepSettings, job_in
from orchestration.search.asha import MIN_EPOCHS_AFTER_WARM_UP, REDUCTION_FACTOR, ResumableASHA
from orchestration.search.sampler import ReproducibleTPESampler
from orchestration.search.searcher import OptunaSearcher
from orchestration.search.space import SearchSpace, read_space

CURVES = Path(__file__).parent / "curves"
# Distances from the best R@1; a search ends with the first.
NEAR = (0.005, 0.01, 0.02)
# Aim, as a share of random search's epochs.
GOAL = 0.25
PATIENCE = 3


class Table:
    """Recorded curves by configuration: the best score up to each epoch, the mean of the seeds."""

    def __init__(self, space: SearchSpace, trials: list[dict[str, Any]]) -> None:
        self.space = space
        self.epochs = space.defaults().epochs
        self.rates = np.array(sorted({trial["configuration"]["lr"] for trial in trials}))
        scores: dict[tuple[Any, ...], list[list[float]]] = {}
        for trial in trials:
            scores.setdefault(self._key(recipe_from({**space.recipe, **trial["configuration"]})), []).append(
                trial["scores"]
            )
        self.curves = {
            key: np.maximum.accumulate([statistics.mean(epoch) for epoch in zip(*several, strict=False)]).tolist()
            for key, several in scores.items()
        }
        self.best = max(curve[-1] for curve in self.curves.values() if curve)

    def curve(self, recipe: Recipe) -> list[float]:
        nearest = self.rates[np.abs(np.log(self.rates) - math.log(recipe.lr)).argmin()]
        return self.curves[self._key(recipe.model_copy(update={"lr": float(nearest)}))]

    def _key(self, recipe: Recipe) -> tuple[Any, ...]:
        parameters = self.space.parameters_in(recipe)
        return tuple(sorted((name, str(value)) for name, value in parameters.items()))

    def near(self, within: float) -> int:
        """Return the number of configurations whose score is `within` this distance of the best."""
        return sum(curve[-1] >= self.best - within for curve in self.curves.values() if curve)


# The scores of each trial in turn, one per epoch.
Trials = Iterator[list[float]]


def searched(table: Table, sampler: Any, scheduler: Any) -> Trials:
    """Run a sweep's search and yield the scores of its trials, one trial after another."""
    search = OptunaSearcher(table.space, sampler, SweepSettings("nowhere"), table.epochs, [])
    for number in itertools.count():
        config = search.suggest(str(number))
        assert isinstance(config, dict)
        record = job_in(config).record()
        trial: Any = SimpleNamespace(trial_id=str(number), config=config)
        scheduler.on_trial_add(None, trial)
        curve = table.curve(record.recipe)
        result: dict[str, Any] = {}
        for epoch, score in enumerate(curve, start=1):
            result = {"epoch": epoch, BEST_SCORE: score}
            record.add(result)
            search.epoch_ended(record, table.epochs)
            if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                break
        diverged = len(curve) < table.epochs and epoch == len(curve)
        record.state = "failed" if diverged else "finished" if epoch == table.epochs else "stopped"
        search.trial_ended(record)
        scheduler.on_trial_complete(None, trial, result)
        yield curve[:epoch]


def drawn(table: Table, seed: int) -> Trials:
    """Yield the trials of random search: each configuration once, for all its epochs."""
    curves = list(table.curves.values())
    for i in np.random.default_rng(seed).permutation(len(curves)):
        yield curves[i]


def cost(table: Table, trials: Trials) -> list[float]:
    """Count the epochs until a trial is within each of `NEAR` of the best.

    A count is infinite if the limit that `PATIENCE` sets comes first.
    """
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


def asha(
    table: Table, reduction_factor: float = REDUCTION_FACTOR, telling: int = MIN_EPOCHS_AFTER_WARM_UP
) -> ResumableASHA:
    return ResumableASHA([], table.epochs, table.space.defaults().warm_epochs, reduction_factor, telling)


def ways(table: Table) -> dict[str, Callable[[int], Trials]]:
    """Return the compared searches by name, as functions of the seed."""
    return {
        "random": lambda seed: drawn(table, seed),
        "random + ASHA": lambda seed: searched(table, RandomSampler(seed=seed), asha(table)),
        "TPE": lambda seed: searched(table, ReproducibleTPESampler(seed), FIFOScheduler()),
        "TPE + ASHA (a sweep's)": lambda seed: searched(table, ReproducibleTPESampler(seed), asha(table)),
    }


def settings(table: Table) -> dict[str, Callable[[int], Trials]]:
    """Return the settings that `--tune` compares, as functions of the seed."""

    def way(factor: float, telling: int = MIN_EPOCHS_AFTER_WARM_UP, **more: Any) -> Callable[[int], Trials]:
        return lambda seed: searched(table, ReproducibleTPESampler(seed, **more), asha(table, factor, telling))

    return {
        "as it is": way(REDUCTION_FACTOR),
        "first rung an epoch after warm-up": way(REDUCTION_FACTOR, 1),
        "three epochs after": way(REDUCTION_FACTOR, 3),
        "reduction factor 3": way(3),
        "reduction factor 4": way(4),
        "1 start-up trial": way(REDUCTION_FACTOR, n_startup_trials=1),
        "5 start-up trials": way(REDUCTION_FACTOR, n_startup_trials=5),
        "similar configurations aren't redrawn": way(REDUCTION_FACTOR, alike=0.0),
    }


def quartiles(costs: list[list[float]], near: int) -> list[float]:
    """Return the quartiles of the costs for one of `NEAR`, without interpolating infinities."""
    found = np.percentile([one[near] for one in costs], [25, 50, 75], method="nearest")
    return [float(value) for value in found]


def show(found: dict[str, list[list[float]]], seeds: int) -> None:
    """Print one table: in full for the first of `NEAR`, the median only for the others."""
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
    parser.add_argument("--tune", action="store_true", help="compare settings on seeds from 200 on; write nothing")
    arguments = parser.parse_args()
    recorded = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(CURVES.glob("emoji-*.json"))]
    table = Table(read_space(CURVES / "emoji.yaml"), [trial for one in recorded for trial in one["trials"]])
    near = {within: table.near(within) for within in NEAR}
    print(
        f"{len(table.curves)} recorded configurations of {table.epochs} epochs, "
        f"R@1 on {recorded[0]['validation']['images']} validation images, mean of up to {len(recorded)} seeds: best "
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
