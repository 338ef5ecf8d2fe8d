"""Optuna's view of a sweep's trials: what the sampler learns from, and the file that optuna-dashboard opens.

    optuna-dashboard sweeps/emoji/study.log

Records (`records.py`) stay the truth and studies are made from them. A study can't be mended where a crash leaves a trial half
told, nor take a choice that a widened space adds a value to; and Optuna's own storages need a server or a file system with locks,
where a sweep's folder may lie on S3.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from dfml import storage as places
from dfml.task import BEST_SCORE
from orchestration import layout
from orchestration.records import State, TrialRecord
from orchestration.search.domains import Choice, Range
from orchestration.search.objectives import Objective, directions, values_of
from orchestration.search.space import SearchSpace

NAME = "sweep"
WORST_SCORE = 0.0  # of R@1 and top-1
VIOLATED = "a trial runs to its end", 1.0  # constraint of Optuna's and by how much an unfit trial violates it


class SweepStudy:
    """A study in a storage of Optuna's, whose trials have the records' numbers.

    A trial that ASHA stopped is PRUNED: the running best after each epoch says how far it was, and the sampler ranks it below every
    trial that ran to its end, and among its like by how long it ran. With two objectives Optuna's sampler can't rank pruned
    trials; there it is COMPLETE with the score it had reached, which its best checkpoint has.

    A trial that its own configuration ended (it diverged, memory ran out) is PRUNED with the worst score there is, and violates a
    constraint, so that the sampler ranks it below all others. As FAIL, which samplers pass over, the search would be drawn to where
    trials fail: there it would see no trial. FAIL are those that were lost with their machines.

    Args:
        storage: empty.
        space: what is searched, or a space that widens it.
        objectives: what is optimised, the score first.
        records: in the order of their numbers, without gaps.
    """

    def __init__(
        self, storage: BaseStorage, space: SearchSpace, objectives: Sequence[Objective], records: Iterable[TrialRecord]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = storage
        self._space = space
        self._objectives = objectives
        self._distributions = {name: _distribution(domain) for name, domain in space.domains().items()}
        self.study = optuna.create_study(storage=storage, study_name=NAME, directions=directions(objectives))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # since 2023
            self.study.set_metric_names(list(objectives))
        self._id = storage.get_study_id_from_name(NAME)
        for record in records:
            self.add(record)

    def add(self, record: TrialRecord) -> None:
        """Add a trial, whose number must be the next."""
        self.study.add_trial(self._frozen(record))

    def report(self, number: int, epoch: int, score: float) -> None:
        """Tell a running trial's best score up to an epoch; again does no harm."""
        self._storage.set_trial_intermediate_value(self._trial(number), epoch, score)

    def end(
        self, number: int, state: State, reached: list[float] | None, reason: str | None = None, unfit: bool = False
    ) -> None:
        """Tell how a running trial ended, and its value of each objective, where it has them."""
        trial = self._trial(number)
        if reason is not None:
            self._storage.set_trial_user_attr(trial, "reason", reason)
        if unfit:
            optuna.Trial(self.study, trial).set_constraint(*VIOLATED)
        told = self._state(state, reached, unfit)
        self._storage.set_trial_state_values(trial, told, self._values(told, reached, unfit))

    def _trial(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _state(self, state: State, reached: list[float] | None, unfit: bool) -> TrialState:
        if state == "running":
            return TrialState.RUNNING
        if unfit:
            return TrialState.PRUNED
        if state == "failed" or reached is None:
            return TrialState.FAIL
        return TrialState.PRUNED if state == "stopped" and len(self._objectives) == 1 else TrialState.COMPLETE

    def _values(self, state: TrialState, reached: list[float] | None, unfit: bool) -> list[float] | None:
        if unfit:
            return [WORST_SCORE] if len(self._objectives) == 1 else None
        return reached if state in (TrialState.COMPLETE, TrialState.PRUNED) else None

    def _frozen(self, record: TrialRecord) -> FrozenTrial:
        """A record as a trial of this study."""
        parameters = self._space.parameters_in(record.recipe)
        reached = values_of(record, self._objectives)
        state = self._state(record.state, reached, record.unfit)
        attributes: dict[str, Any] = {"recipe": record.recipe, "reason": record.reason, "flops": record.flops}
        trial = optuna.trial.create_trial(
            state=state,
            values=self._values(state, reached, record.unfit),
            params=parameters,
            distributions={name: self._distributions[name] for name in parameters},
            user_attrs={name: value for name, value in attributes.items() if value is not None},
            constraints=dict([VIOLATED]) if record.unfit else None,
            intermediate_values={int(e["epoch"]): e[BEST_SCORE] for e in record.epochs if BEST_SCORE in e},
        )
        trial.datetime_start = datetime.fromtimestamp(record.began or time.time())
        trial.datetime_complete = datetime.fromtimestamp(record.ended or time.time()) if state.is_finished() else None
        return trial


def _distribution(domain: Choice | Range) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.choice)
    if domain.integers:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


class _Log(BaseJournalBackend):
    """Optuna's journal in memory, as the lines of its file format."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]


class StudyFile:
    """`study.log` in a sweep's folder, Optuna's journal file: made from the records when a session begins, written whole as trials begin and end.

    Within a session it only grows, so that a dashboard that has it open follows.

    Args:
        sweep: its folder or URI.
        space, objectives, records: as for `SweepStudy`.
    """

    def __init__(
        self, sweep: str, space: SearchSpace, objectives: Sequence[Objective], records: Sequence[TrialRecord]
    ) -> None:
        self._place = places.join(sweep, layout.STUDY)
        self._log = _Log()
        self._objectives = objectives
        self._study = SweepStudy(JournalStorage(self._log), space, objectives, records)
        self._told = {record.number: len(record.epochs) for record in records}  # epochs of each trial
        self._waiting: dict[int, TrialRecord] = {}  # began before a trial with a smaller number
        self.write()

    def update(self, record: TrialRecord) -> None:
        """Take what is new in the record of a trial that has begun or ended."""
        if record.number in self._told:
            self._progress(record)
        else:
            self._waiting[record.number] = record
        while following := self._waiting.pop(len(self._told), None):
            self._study.add(following)
            self._told[following.number] = len(following.epochs)
        self.write()

    def _progress(self, record: TrialRecord) -> None:
        for figures in record.epochs[self._told[record.number] :]:
            if BEST_SCORE in figures:
                self._study.report(record.number, int(figures["epoch"]), figures[BEST_SCORE])
        self._told[record.number] = len(record.epochs)
        if record.state != "running":
            reached = values_of(record, self._objectives)
            self._study.end(record.number, record.state, reached, record.reason, record.unfit)

    def write(self) -> None:
        """Write the file whole, with all that was told so far."""
        places.write(self._place, b"".join(self._log.lines))
