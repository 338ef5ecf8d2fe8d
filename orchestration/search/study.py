"""Optuna's study of a sweep, for the sampler, and as a file for optuna-dashboard.

    optuna-dashboard sweeps/emoji/study.log

The study is built from the records (`records.py`) when a session begins. A stored study couldn't be
repaired if a crash left a trial half reported, nor could a widened space add a value to a choice;
and Optuna's own storages need a server or a file system with locks, while a sweep's folder may be
on S3.
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from dfml import storage as files
from dfml.errors import InvalidInput
from dfml.recipe import Recipe
from dfml.task import BEST_SCORE
from orchestration.callback import SweepCallback
from orchestration.search.domains import Choice, Range
from orchestration.search.objectives import ObjectiveName, directions, values_of
from orchestration.search.space import SearchSpace
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import TrialRecord

NAME = "sweep"
WORST_SCORE = 0.0  # of R@1 and top-1
# The name of a constraint (see Optuna), and the amount by which an unfit trial violates it.
CONSTRAINT = "a trial runs to its end", 1.0


class SweepStudy:
    """An Optuna study whose trials have the records' numbers, written as Optuna's journal file.

    A trial that ASHA stopped is PRUNED, with its best score so far after each epoch: the sampler
    ranks it below every trial that ran to its end, and among pruned trials by how long it ran. With
    two objectives Optuna's sampler can't rank pruned trials; then the trial is COMPLETE with the
    score it had reached, which is its best checkpoint's.

    A trial that failed because of its own configuration (it diverged, memory ran out) is PRUNED
    with the worst possible score, and violates a constraint, so that the sampler ranks it below all
    others. Only a trial that was lost with its machines is FAIL: samplers ignore such trials, and
    would be drawn to a region where trials fail.

    Args:
        space: the search space, or a space that widens it.
        objectives: the objectives, the score first.
        records: records in the order of their numbers, without gaps.
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[ObjectiveName], records: Iterable[TrialRecord]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._journal = _Journal()
        self._storage = JournalStorage(self._journal)
        self._space = space
        self._objectives = objectives
        self._distributions = {name: _distribution(domain) for name, domain in space.domains().items()}
        self.study = optuna.create_study(storage=self._storage, study_name=NAME, directions=directions(objectives))
        with warnings.catch_warnings():
            # The method has been experimental since 2023.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(objectives))
        self._id = self._storage.get_study_id_from_name(NAME)
        for record in records:
            self.study.add_trial(self._frozen(record))

    def describe(self, number: int, recipe: Recipe, flops: float | None) -> None:
        """Attach the recipe and the FLOPs to a new trial."""
        self._describe(number, {"recipe": recipe.model_dump(mode="json"), "flops": flops})

    def report(self, record: TrialRecord) -> None:
        """Report a running trial's best score after its last epoch. Idempotent."""
        if record.best is not None:
            epoch = int(record.epochs[-1]["epoch"])
            self._storage.set_trial_intermediate_value(self._trial(record.number), epoch, record.best)

    def end(self, record: TrialRecord) -> None:
        """End a running trial with the state of its record."""
        trial = self._trial(record.number)
        self._describe(record.number, {"reason": record.reason})
        if record.unfit:
            optuna.Trial(self.study, trial).set_constraint(*CONSTRAINT)
        state, values = self._outcome(record)
        self._storage.set_trial_state_values(trial, state, values)

    def lines(self) -> bytes:
        """Return the study as Optuna's journal file, which only grows within a session."""
        return b"".join(self._journal.lines)

    def _trial(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _describe(self, number: int, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._storage.set_trial_user_attr(self._trial(number), name, value)

    def _outcome(self, record: TrialRecord) -> tuple[TrialState, list[float] | None]:
        """Return a trial's state and values in Optuna (see the class)."""
        alone = len(self._objectives) == 1
        if record.state == "running":
            return TrialState.RUNNING, None
        if record.unfit:
            return TrialState.PRUNED, [WORST_SCORE] if alone else None
        reached = values_of(record, self._objectives)
        if record.state == "failed" or reached is None:
            return TrialState.FAIL, None
        return TrialState.PRUNED if record.state == "stopped" and alone else TrialState.COMPLETE, reached

    def _frozen(self, record: TrialRecord) -> FrozenTrial:
        """Return a record as a trial of this study."""
        recipe = record.recipe.model_dump(mode="json")
        parameters = self._space.parameters_in(record.recipe)
        state, values = self._outcome(record)
        attributes: dict[str, Any] = {"recipe": recipe, "reason": record.reason, "flops": record.flops}
        trial = optuna.trial.create_trial(
            state=state,
            values=values,
            params=parameters,
            distributions={name: self._distributions[name] for name in parameters},
            user_attrs={name: value for name, value in attributes.items() if value is not None},
            constraints=dict([CONSTRAINT]) if record.unfit else None,
            intermediate_values={int(e["epoch"]): e[BEST_SCORE] for e in record.epochs if BEST_SCORE in e},
        )
        trial.datetime_start = datetime.fromtimestamp(record.began or time.time())
        trial.datetime_complete = datetime.fromtimestamp(record.ended or time.time()) if state.is_finished() else None
        return trial


class StudyFile(SweepCallback):
    """Keep `study.log` in a sweep's folder up to date, for a dashboard that has it open.

    Args:
        study: the study; reported to before this is called.
        sweep: the sweep's folder or URI.
    """

    def __init__(self, study: SweepStudy, sweep: str) -> None:
        self._study = study
        self._uri = files.join(sweep, layout.STUDY)

    def write(self) -> None:
        """Write the file."""
        files.write(self._uri, self._study.lines())

    def trial_started(self, record: TrialRecord) -> None:
        self._try_to_write()

    def trial_ended(self, record: TrialRecord) -> None:
        self._try_to_write()

    def _try_to_write(self) -> None:
        # The sweep writes the file once more at its end.
        with contextlib.suppress(OSError, InvalidInput):
            self.write()


def _distribution(domain: Choice | Range) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.choice)
    if domain.integers:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


class _Journal(BaseJournalBackend):
    """Optuna's journal in memory, as the lines of its file format."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
