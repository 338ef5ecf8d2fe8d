"""Optuna's TPE with a random state per trial, and without repeated proposals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace

# Compared on recorded curves (benchmarks/search.py), on which most settings differ by less than
# seeds do. All but ALIKE and DRAWS are Optuna's defaults.
STARTUP_TRIALS = 10  # random trials before the first model
ALIKE = 0.1  # share of a value's range
DRAWS = 8  # attempts; then a similar configuration is accepted, as a small space may have no other


class ReproducibleTPESampler(BaseSampler):
    """Sample by TPE with a random state that depends on (seed, trial number) alone.

    The sample of trial n is then a function of the seed and the results before it, whether or not
    the sweep was interrupted. Trials that run at the same time count as poor (Optuna's constant
    liar).

    TPE tends to return to a good configuration. A trial that is almost the same would add hardly
    any information, so such a proposal is drawn again.

    Args:
        seed: the sweep's seed.
        alike: two configurations are alike if all choices are the same and each other value differs
            by less than this share of its range.
        settings: settings of Optuna's TPE.
    """

    def __init__(self, seed: int, alike: float = ALIKE, **settings: Any) -> None:
        self._seed = seed
        self._alike = alike
        self._settings = {"n_startup_trials": STARTUP_TRIALS} | settings
        self._sampler = self._of(0)
        self._intersection = IntersectionSearchSpace(include_pruned=True)
        # Names that all trials have; the others belong to some kinds of schedule.
        self._shared: set[str] = set()

    def _of(self, number: int) -> TPESampler:
        mixed = np.random.SeedSequence([self._seed, number]).generate_state(1)
        return TPESampler(seed=int(mixed[0]), **self._settings)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        self._sampler = self._of(trial.number)
        # With several objectives Optuna's default is to sample each value independently.
        if len(study.directions) > 1:
            return {}
        # Updated by the trials since the last call.
        self._shared = set(self._intersection.calculate(study))
        known: dict[str, Any] = {}
        for one in study.get_trials(deepcopy=False):
            known |= one.distributions
        return {name: known[name] for name in sorted(known) if not known[name].single()}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        shared = {name: distribution for name, distribution in search_space.items() if name in self._shared}
        earlier = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        values: dict[str, Any] = {}
        for _ in range(DRAWS):
            values = self._sampler.sample_relative(study, trial, shared)
            kin = [one for one in earlier if values and self._are_alike(one, values)]
            if not kin:
                break
            # Alike so far, including the schedule's kind; the values of that kind remain.
            of_kind = {
                name: search_space[name] for name in kin[-1].params if name in search_space.keys() - values.keys()
            }
            values |= self._sampler.sample_relative(study, trial, of_kind)
            if not any(self._are_alike(one, values) for one in kin):
                break
        return values

    def _are_alike(self, earlier: Any, values: dict[str, Any]) -> bool:
        """Return whether a trial has values like these; it may have other values too."""
        return all(
            name in earlier.params and _distance(earlier.distributions[name], earlier.params[name], value) < self._alike
            for name, value in values.items()
        )

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def _distance(distribution: Any, a: Any, b: Any) -> float:
    """Return the distance between two values as a share of the range; 0 or 1 in a choice."""
    if isinstance(distribution, CategoricalDistribution):
        return float(a != b)
    scale = math.log if distribution.log else float
    return abs(scale(a) - scale(b)) / (scale(distribution.high) - scale(distribution.low))
