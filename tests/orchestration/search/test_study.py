"""Studies made from records, and the file for optuna-dashboard."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from dfml.task import BEST_SCORE
from orchestration.job import TrialJob, job_in
from orchestration.search.objectives import pareto_front
from orchestration.search.searcher import searcher
from orchestration.search.space import SearchSpace, build_space
from orchestration.search.study import StudyFile, SweepStudy
from orchestration.sweep_folder.layout import STUDY
from orchestration.sweep_folder.records import TrialRecord
from tests.plans import SETTINGS

CONTENT: dict[str, Any] = {
    "recipe": {"epochs": 8},
    "search": {
        "num_sub_blocks": {"choice": [2, 3]},
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "schedule": {"choice": {"step": {"gamma": {"low": 0.2, "high": 0.9}}, "cosine": {}}},
    },
}
SPACE = build_space(CONTENT, "test")


def record(number: int, scores: list[float], space: SearchSpace = SPACE, **more: Any) -> TrialRecord:
    """Return a sampled trial's record, with the running best score after each epoch."""
    config = searcher(space, number, SETTINGS, 8, []).suggest("trial")
    assert isinstance(config, dict)
    job = job_in(config)
    made = TrialRecord(number=number, parameters=job.parameters, recipe=job.recipe, **more)
    for epoch in range(1, len(scores) + 1):
        made.add({"epoch": epoch, BEST_SCORE: max(scores[:epoch])})
    return made


def write(sweep: Path, records: list[TrialRecord], space: SearchSpace = SPACE, objectives: Any = ("score",)) -> None:
    """Write the study of these records to a sweep's folder."""
    StudyFile(SweepStudy(space, objectives, records), str(sweep)).write()


def opened(sweep: Path) -> optuna.Study:
    """Open the study as Optuna's own programs do."""
    storage = JournalStorage(JournalFileBackend(str(sweep / STUDY)))
    return optuna.load_study(study_name="sweep", storage=storage)


RECORDS = [
    record(0, [0.1, 0.3, 0.2, 0.4, 0.4, 0.5, 0.5, 0.6], state="finished", began=1.7e9, ended=1.7e9 + 80),
    record(1, [0.1, 0.2], state="stopped"),
    record(2, [0.1], state="failed", reason="the loss is nan in epoch 2", unfit=True),
    record(3, [0.1, 0.2, 0.3]),
]


def test_the_file_holds_what_the_records_do(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    trials = opened(tmp_path).trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.RUNNING]
    assert [trial.state for trial in trials] == states
    assert [trial.value for trial in trials] == [0.6, 0.2, 0.0, None]
    for trial, one in zip(trials, RECORDS, strict=True):
        assert trial.params == one.parameters
        assert trial.user_attrs["recipe"] == one.recipe.model_dump(mode="json")
        assert trial.intermediate_values == {int(e["epoch"]): e[BEST_SCORE] for e in one.epochs}
    assert trials[2].user_attrs["reason"] == "the loss is nan in epoch 2"
    assert trials[0].duration is not None
    assert trials[0].duration.total_seconds() == 80
    assert opened(tmp_path).metric_names == ["score"]


def test_a_study_that_was_kept_up_is_the_same_as_one_made_from_the_records(tmp_path: Path) -> None:
    """Trials start, resume and end, in a different order from their starts."""
    cut = RECORDS[3].model_copy(deep=True)
    records = [*RECORDS[:3], cut]
    search = searcher(SPACE, 0, SETTINGS, 8, records)
    assert job_in(search.suggest("cut")).number == 3  # type: ignore[arg-type]
    late, early = (job_in(search.suggest(name)).record() for name in "ab")  # type: ignore[arg-type]
    for one, score in ((cut, 0.7), (late, 0.3), (early, 0.5), (late, 0.4), (early, 0.8)):
        one.add({"epoch": len(one.epochs) + 1, BEST_SCORE: score})
        search.epoch_ended(one, 8)
    cut.state = early.state = "stopped"
    late.state, late.reason, late.unfit = "failed", "out of memory", True
    for one in (early, cut, late):
        search.trial_ended(one)
    StudyFile(search.sweep_study, str(tmp_path / "kept")).write()
    write(tmp_path / "again", [*records, late, early])

    def read(name: str) -> list[Any]:
        told = opened(tmp_path / name).trials
        return [
            (t.number, t.state, t.values, t.params, t.intermediate_values, t.user_attrs, t.constraints) for t in told
        ]

    assert read("kept") == read("again")


def test_a_reader_that_has_the_file_open_follows_it(tmp_path: Path) -> None:
    study_of = SweepStudy(SPACE, ("score",), RECORDS)
    file = StudyFile(study_of, str(tmp_path))
    file.write()
    study = opened(tmp_path)
    assert len(study.trials) == 4
    study_of.end(RECORDS[3].model_copy(update={"state": "stopped"}))
    study_of.study.ask()
    file.write()
    assert [trial.state for trial in study.trials[3:]] == [TrialState.PRUNED, TrialState.RUNNING]


def test_with_two_objectives_optunas_best_trials_are_the_pareto_front(tmp_path: Path) -> None:
    scores = [0.5, 0.6, 0.4, 0.6, 0.3, 0.7]
    flops = [2e9, 4e9, 2e9, 4e9, 1e9, 9e9]
    records = [
        record(n, [score], state="stopped" if n % 2 else "finished", flops=flops[n]) for n, score in enumerate(scores)
    ]
    records.append(record(6, [0.99], state="failed", flops=1.0))
    write(tmp_path, records, objectives=("score", "flops"))
    front = [one.number for one in pareto_front(records)]
    assert front == [5, 1, 3, 0, 4]
    assert sorted(front) == [trial.number for trial in opened(tmp_path).best_trials]


@pytest.mark.integration
def test_optuna_dashboard_serves_it(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("optuna-dashboard"), tmp_path / STUDY, "--port", str(port), "-q"]
    server = subprocess.Popen([*map(str, command), "--server", "wsgiref"], stderr=subprocess.DEVNULL)
    try:
        studies = _get(port, "api/studies", server)["study_summaries"]
        assert [study["study_name"] for study in studies] == ["sweep"]
        trials = _get(port, f"api/studies/{studies[0]['study_id']}", server)["trials"]
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert [trial["state"] for trial in trials] == ["Complete", "Pruned", "Pruned", "Running"]
    assert [trial.get("values") for trial in trials[:2]] == [[0.6], [0.2]]
    assert {p["name"] for p in trials[0]["params"]} == set(RECORDS[0].parameters)


def _get(port: int, path: str, server: subprocess.Popen[bytes]) -> Any:
    """Return the server's answer, once it listens."""
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
                return json.load(answer)
        except OSError:
            assert server.poll() is None, "optuna-dashboard has ended"
            assert time.monotonic() < until
            time.sleep(0.1)


WIDER = build_space(
    {
        "recipe": {"epochs": 8},
        "search": {
            "num_sub_blocks": {"choice": [1, 2, 3, 6]},
            "lr": {"low": 1e-5, "high": 1e-1, "log": True},
            "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
            "schedule": {
                "choice": {
                    "step": {"gamma": {"low": 0.1, "high": 1.0}, "step": {"low": 1, "high": 10}},
                    "exponential": {"gamma": {"low": 0.5, "high": 0.9}},
                    "cosine": {},
                }
            },
        },
    },
    "wider",
)


def test_earlier_trials_are_legal_in_a_widened_space_and_the_search_learns_from_them(tmp_path: Path) -> None:
    """Optuna itself refuses to sample a choice with a new value if it has trials of the old one."""
    earlier = [record(number, [0.1 * number] * 8, state="finished") for number in range(12)]
    cut = record(12, [0.2])
    write(tmp_path, [*earlier, cut], WIDER)
    search = searcher(WIDER, 0, SETTINGS, 8, [*earlier, cut])

    def suggested() -> TrialJob:
        config = search.suggest("any")
        assert isinstance(config, dict)
        job: TrialJob = job_in(config)
        return job

    first = suggested()
    assert (first.number, first.recipe) == (12, cut.recipe)
    for trials in (opened(tmp_path).trials, search.sweep_study.study.trials):
        for trial, one in zip(trials, [*earlier, cut], strict=True):
            assert {name: trial.params[name] for name in one.parameters} == one.parameters
            assert trial.params["weight_decay"] == one.recipe.weight_decay
            assert trial.params.get("schedule.step.step") == getattr(one.recipe.schedule, "step", None)
    new = [suggested().recipe for _ in range(30)]
    assert any(not 1e-4 <= each.lr <= 1e-2 for each in new) or {each.num_sub_blocks for each in new} - {2, 3}


@pytest.mark.parametrize("objectives", [("score",), ("score", "flops")])
def test_no_record_at_all_makes_an_empty_study(tmp_path: Path, objectives: Any) -> None:
    write(tmp_path, [], objectives=objectives)
    assert opened(tmp_path).trials == []
