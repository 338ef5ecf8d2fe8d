"""Optuna as Tune's searcher, rebuilt from records when a sweep is resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from ray.tune.search import Searcher

from dfml.recipe import Recipe
from dfml.task import BEST_SCORE
from orchestration.records import State, TrialRecord
from orchestration.reports import FAILED, UNFIT
from orchestration.search.objectives import SCORE_ALONE, Objective
from orchestration.search.sampler import TPEByNumber
from orchestration.search.space import SearchSpace
from orchestration.search.study import SweepStudy


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
        for parameters in space.first_untried([record.parameters for record in records]):
            self._trials.study.enqueue_trial(parameters)
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
        running.unfit |= result.get(UNFIT, False)
        if BEST_SCORE in result:
            running.epoch, running.score = result["epoch"], result[BEST_SCORE]
            self._trials.report(running.number, running.epoch, running.score)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._running:
            return  # Tune tells of some ends twice
        if result is not None:
            self.on_trial_result(trial_id, result)  # a last one comes here only
        running = self._running.pop(trial_id)
        found = [running.score if objective == "score" else running.flops for objective in self._objectives]
        values = [value for value in found if value is not None]
        state: State = "finished" if running.epoch >= self._job["epochs"] else "stopped"
        if error or running.failed or len(values) < len(found):
            state = "failed"
        self._trials.end(running.number, state, values, unfit=running.unfit)

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
    unfit: bool = False


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
