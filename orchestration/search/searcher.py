"""Optuna as Tune's searcher; the study is rebuilt from records when a sweep is resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler
from ray.tune.search import Searcher

from dfml.recipe import Recipe
from dfml.task import BEST_SCORE
from orchestration.callback import SweepCallback
from orchestration.job import SweepSettings, TrialJob, config_of
from orchestration.search.objectives import SCORE_ALONE, ObjectiveName
from orchestration.search.sampler import ReproducibleTPESampler
from orchestration.search.space import SearchSpace
from orchestration.search.study import SweepStudy
from orchestration.sweep_folder.records import TrialRecord


class OptunaSearcher(Searcher, SweepCallback):
    """Suggest configurations by Optuna, and learn their results as a callback of the sweep.

    Ray's own OptunaSearch reports a trial that ASHA stopped as if it had ended with the score it
    reached. This study gets the records instead: Tune's own reports are ignored, so that only
    `trials/recorder.py` decides how a trial ended.

    Args:
        space: the search space.
        sampler: a sampler of Optuna.
        settings: settings of all trials.
        epochs: epochs of a trial that isn't stopped.
        records: records of earlier sessions, in the order of their numbers. Interrupted trials are
            suggested first, with their numbers.
        objectives: the objectives, the score first.
        is_over: returns whether no more trials are to be started.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: BaseSampler,
        settings: SweepSettings,
        epochs: int,
        records: Sequence[TrialRecord],
        objectives: Sequence[ObjectiveName] = SCORE_ALONE,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(metric=BEST_SCORE, mode="max")
        self._space = space
        self._settings = settings
        self._epochs = epochs
        self._objectives = objectives
        self._is_over = is_over
        self.sweep_study = SweepStudy(space, objectives, records)
        self.sweep_study.study.sampler = sampler
        for parameters in space.first_untried([record.parameters for record in records]):
            self.sweep_study.study.enqueue_trial(parameters)
        self._interrupted = [record for record in records if record.state == "running"]

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the configuration of the next trial's job; or Tune's value for no more trials."""
        if self._is_over():
            return str(Searcher.FINISHED)
        if self._interrupted:
            record = self._interrupted.pop(0)
            number, recipe, flops = record.number, record.recipe, record.flops
        else:
            trial = self.sweep_study.study.ask()
            number, recipe = trial.number, self._space.suggest(trial)
            flops = _flops(recipe) if "flops" in self._objectives else None
            self.sweep_study.describe(number, recipe, flops)
        parameters = self._space.parameters_in(recipe)
        return config_of(TrialJob(self._settings, number, parameters, recipe, self._epochs, flops))

    def epoch_ended(self, record: TrialRecord, last: int) -> None:
        self.sweep_study.report(record)

    def trial_ended(self, record: TrialRecord) -> None:
        self.sweep_study.end(record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the trial's record reports its end to the study."""

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: Tune saves searchers often, but this one is rebuilt from records."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its records")


def _flops(recipe: Recipe) -> float:
    from dfml.evaluate.flops import routed_flops  # imports torch

    return float(routed_flops(recipe))


def searcher(
    space: SearchSpace,
    seed: int,
    settings: SweepSettings,
    epochs: int,
    records: Sequence[TrialRecord],
    objectives: Sequence[ObjectiveName] = SCORE_ALONE,
    is_over: Callable[[], bool] = lambda: False,
) -> OptunaSearcher:
    """Return the searcher of a sweep: TPE on the known trials, after the space's `first`."""
    return OptunaSearcher(space, ReproducibleTPESampler(seed), settings, epochs, records, objectives, is_over)
