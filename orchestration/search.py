"""Optuna as the searcher and ASHA as the scheduler, both rebuilt from records when a sweep is resumed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
from optuna.samplers import BaseSampler, TPESampler
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from dfml.task import BEST_SCORE
from orchestration.records import TrialRecord
from orchestration.search_space import SearchSpace

REDUCTION_FACTOR = 2  # a rung lets the better half of the trials seen there go on
STUDY = "sweep"


class TPEByNumber(BaseSampler):
    """TPE whose randomness depends on (seed, trial number) alone.

    What trial n samples is then a function of the seed and the results before it, whether or not the sweep was
    interrupted in between.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sampler = self._of(0)

    def _of(self, number: int) -> TPESampler:
        # Optuna wants one integer below 2³²; large odd steps keep neighbouring seeds and trials apart.
        mixed = (self._seed * 0x9E3779B1 + number * 0x85EBCA77) % 2**32
        return TPESampler(seed=mixed)  # after ten trials at random, Optuna's default

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        self._sampler = self._of(trial.number)
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


class Sampling:
    """Optuna's define-by-run function: from a trial to its configuration.

    Args:
        space: what is sampled.
        job: the same for all trials: where data and results are, and what a trial gets of the cluster.
    """

    def __init__(self, space: SearchSpace, job: dict[str, Any]) -> None:
        self._space = space
        self._job = job

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        recipe = self._space.suggest(trial)
        # A trial that an interruption cut is enqueued again and keeps its number, by which its checkpoints are found.
        number = trial.user_attrs.get("number", trial.number)
        recipe_values = recipe.model_dump(mode="json")
        return {"number": number, "parameters": dict(trial.params), "recipe": recipe_values, "job": self._job}


def searcher(space: SearchSpace, seed: int, job: dict[str, Any], records: list[TrialRecord]) -> OptunaSearch:
    """Optuna's study with the finished trials told, the cut ones first in the queue, then the space's `first`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = TPEByNumber(seed)
    memory = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=memory, study_name=STUDY, sampler=sampler, direction="maximize")
    for record in records:
        if record.state == "running":
            continue
        study.enqueue_trial(record.parameters)
        trial = study.ask()
        space.suggest(trial)
        if record.best is None or record.state == "failed":
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, record.best)
    for record in records:
        if record.state == "running":
            study.enqueue_trial(record.parameters, user_attrs={"number": record.number})
    for point in space.first[len(records) :]:
        study.enqueue_trial(space.parameters_of(point))
    # The running best, since Optuna and ASHA both look at the last value told.
    return OptunaSearch(
        Sampling(space, job), metric=BEST_SCORE, mode="max", sampler=sampler, storage=memory, study_name=STUDY
    )


class ResumableASHA(ASHAScheduler):
    """ASHA that knows the rungs which earlier sessions of the sweep filled; Ray doesn't save them."""

    def __init__(self, records: list[TrialRecord], epochs: int, warm_epochs: int) -> None:
        # The first rung comes an epoch after warm-up, in which all trials look alike. max_t lies beyond the last epoch:
        # a trial ends by itself there and isn't killed before its last checkpoint is in.
        super().__init__(
            time_attr="epoch",
            metric=BEST_SCORE,
            mode="max",
            grace_period=first_rung(epochs, warm_epochs),
            reduction_factor=REDUCTION_FACTOR,
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
