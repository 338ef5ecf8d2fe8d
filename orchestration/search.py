"""Optuna as the searcher and ASHA as the scheduler, both rebuilt from records when a sweep is resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import InMemoryStorage
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from dfml.recipe import Recipe
from dfml.task import BEST_SCORE
from orchestration.objectives import SCORE_ALONE, Objective
from orchestration.records import State, TrialRecord
from orchestration.reports import FAILED
from orchestration.search_space import SearchSpace
from orchestration.study import SweepStudy

# Compared on recorded curves (benchmarks/search.py), where most settings differ by less than seeds do: Optuna's defaults, but for what
# follows. At the first rung, an epoch after warm-up, the later winners aren't in the best third yet, and 3 or 4 mostly lost them.
REDUCTION_FACTOR = 2  # a rung lets the better half of the trials seen there go on
STARTUP_TRIALS = 10  # at random, before there is something to model
ALIKE = 0.1  # of a value's range
DRAWS = 8  # then a likeness is taken: a small space has nothing else left


class TPEByNumber(BaseSampler):
    """TPE whose randomness depends on (seed, trial number) alone.

    What trial n samples is then a function of the seed and the results before it, whether or not the sweep was
    interrupted in between. Trials that run at the same time count as poor (Optuna's constant liar).

    TPE likes to come back to where it did well. A trial there would tell next to nothing new, so it is drawn again.

    Args:
        seed: of the sweep.
        alike: two configurations are, where all choices are the same and each other value differs by less than this share of its range.
        settings: of Optuna's TPE.
    """

    def __init__(self, seed: int, alike: float = ALIKE, **settings: Any) -> None:
        self._seed = seed
        self._alike = alike
        self._settings = {"n_startup_trials": STARTUP_TRIALS} | settings
        self._sampler = self._of(0)
        self._intersection = IntersectionSearchSpace(include_pruned=True)
        self._shared: set[str] = set()  # names that all trials have; the others belong to some kinds of schedule

    def _of(self, number: int) -> TPESampler:
        # Optuna wants one integer below 2³²; large odd steps keep neighbouring seeds and trials apart.
        mixed = (self._seed * 0x9E3779B1 + number * 0x85EBCA77) % 2**32
        return TPESampler(seed=mixed, **self._settings)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        self._sampler = self._of(trial.number)
        if len(study.directions) > 1:  # where Optuna's own default is to sample each value alone
            return {}
        self._shared = set(self._intersection.calculate(study))  # from what is new since the trial before
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
            # So far alike, the schedule's kind among it; what is left are the values of that kind.
            of_kind = {
                name: search_space[name] for name in kin[-1].params if name in search_space.keys() - values.keys()
            }
            values |= self._sampler.sample_relative(study, trial, of_kind)
            if not any(self._are_alike(one, values) for one in kin):
                break
        return values

    def _are_alike(self, earlier: Any, values: dict[str, Any]) -> bool:
        """Whether a trial has such values; it may have others besides."""
        return all(
            name in earlier.params and _distance(earlier.distributions[name], earlier.params[name], value) < self._alike
            for name, value in values.items()
        )

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def _distance(distribution: Any, a: Any, b: Any) -> float:
    """Between two values, as a share of the range; 0 or 1 in a choice."""
    if isinstance(distribution, CategoricalDistribution):
        return float(a != b)
    scale = math.log if distribution.log else float
    return abs(scale(a) - scale(b)) / (scale(distribution.high) - scale(distribution.low))


class OptunaSearcher(Searcher):
    """Asks Optuna for configurations and tells it each epoch's score: Tune's interface.

    Ray's own OptunaSearch tells a trial that ASHA stopped as if it had ended with what it reached.

    Args:
        space: what is sampled.
        sampler: of Optuna's.
        job: the same for all trials: where data and results are, what a trial gets of the cluster, and `epochs`.
        records: of earlier sessions, in the order of their numbers. Those that were cut come first, with their numbers.
        objectives: what is optimised, the score first.
        is_over: says when no more trials are to be started.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: BaseSampler,
        job: dict[str, Any],
        records: Sequence[TrialRecord],
        objectives: Sequence[Objective],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(metric=BEST_SCORE, mode="max")
        self._space = space
        self._job = job
        self._objectives = objectives
        self._is_over = is_over
        self._trials = SweepStudy(InMemoryStorage(), space, objectives, records)
        self._trials.study.sampler = sampler
        for point in space.first[len(records) :]:
            self._trials.study.enqueue_trial(space.parameters_of(point))
        self._cut = [record for record in records if record.state == "running"]
        self._running: dict[str, _Running] = {}  # by Tune's name of the trial

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's configuration: `number`, `parameters`, `recipe`, `flops` and `job`; or Tune's word that there is none."""
        if self._is_over():
            return str(Searcher.FINISHED)
        if self._cut:
            record = self._cut.pop(0)
            number, recipe, flops, score = record.number, record.recipe, record.flops, record.best
        else:
            trial = self._trials.study.ask()
            sampled = self._space.suggest(trial)
            number, recipe, score = trial.number, sampled.model_dump(mode="json"), None
            flops = _flops(sampled) if "flops" in self._objectives else None
        self._running[trial_id] = _Running(number, flops, score)
        parameters = self._space.parameters_in(recipe)
        return {"number": number, "parameters": parameters, "recipe": recipe, "flops": flops, "job": self._job}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        running = self._running[trial_id]
        running.failed |= FAILED in result
        if BEST_SCORE in result:
            running.epoch, running.score = result["epoch"], result[BEST_SCORE]
            self._trials.report(running.number, running.epoch, running.score)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result is not None:
            self.on_trial_result(trial_id, result)  # a last one comes here only
        running = self._running.pop(trial_id)
        found = [running.score if objective == "score" else running.flops for objective in self._objectives]
        values = [value for value in found if value is not None]
        state: State = "finished" if running.epoch >= self._job["epochs"] else "stopped"
        if error or running.failed or len(values) < len(found):
            state = "failed"
        self._trials.end(running.number, state, values)

    def save(self, checkpoint_path: str) -> None:
        """Tune saves searchers every few seconds; ours begins from the records, so there is nothing to keep."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its records")


@dataclass
class _Running:
    """A trial under way: what it has told so far."""

    number: int
    flops: float | None
    score: float | None
    epoch: int = 0
    failed: bool = False


def _flops(recipe: Recipe) -> float:
    from dfml.evaluate.flops import routed_flops  # imports torch

    return float(routed_flops(recipe))


def searcher(
    space: SearchSpace,
    seed: int,
    job: dict[str, Any],
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective] = SCORE_ALONE,
    is_over: Callable[[], bool] = lambda: False,
) -> OptunaSearcher:
    """The searcher of a sweep: TPE from the trials that there are, then the space's `first`."""
    return OptunaSearcher(space, TPEByNumber(seed), job, records, objectives, is_over)


class ResumableASHA(ASHAScheduler):
    """ASHA that knows the rungs which earlier sessions of the sweep filled; Ray doesn't save them."""

    def __init__(
        self,
        records: Sequence[TrialRecord],
        epochs: int,
        warm_epochs: int,
        reduction_factor: float = REDUCTION_FACTOR,
    ) -> None:
        # The first rung comes an epoch after warm-up, in which all trials look alike. max_t lies beyond the last epoch:
        # a trial ends by itself there and isn't killed before its last checkpoint is in.
        super().__init__(
            time_attr="epoch",
            metric=BEST_SCORE,
            mode="max",
            grace_period=first_rung(epochs, warm_epochs),
            reduction_factor=reduction_factor,
            max_t=epochs + 1,
        )
        self._cut = {record.number: record.epochs for record in records if record.state == "running"}
        for record in records:
            if record.state != "running":
                self._replay(SimpleNamespace(trial_id=f"earlier-{record.number}"), record.epochs)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for figures in self._cut.get(trial.config.get("number"), []):
            super().on_trial_result(tune_controller, trial, figures)

    def _replay(self, trial: Any, epochs: list[dict[str, Any]]) -> None:
        super().on_trial_add(None, trial)
        for figures in epochs:
            super().on_trial_result(None, trial, figures)


def first_rung(epochs: int, warm_epochs: int) -> int:
    """The epoch after which trials may be stopped: never inside warm-up, and at most the last."""
    return min(epochs, warm_epochs + 1)
