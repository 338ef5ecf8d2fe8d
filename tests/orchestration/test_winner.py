"""The winner's runs: their jobs, and the results made from their files; without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfml.errors import RunFailed
from dfml.recipe import Recipe
from dfml.task import BEST_SCORE, SCORE
from orchestration import winner
from orchestration.cluster.interruption import Interruption
from orchestration.cluster.resources import TrialResources
from orchestration.job import SweepSettings, WinnerJob, job_in
from orchestration.plan import Plan
from orchestration.search.space import build_space
from orchestration.sweep_folder import layout
from orchestration.sweep_folder.records import TrialRecord
from orchestration.trials.outcome import Outcome, count_evaluation
from orchestration.trials.runs import RunContext
from orchestration.winner import FixedJobs, results_of, runs_of
from tests.plans import plan_of

SEED = 4


def plan(**changes: Any) -> Plan:
    space = build_space({"recipe": {"epochs": 6}, "search": {"num_sub_blocks": {"choice": [2, 3]}}}, "test")
    return plan_of(space, **{"seed": SEED, "reproductions": 3, **changes})


def trial(number: int, best_epoch: int = 3) -> TrialRecord:
    """Return a trial's record of 5 epochs whose best one is `best_epoch`."""
    made = TrialRecord(
        number=number,
        parameters={"num_sub_blocks": 2},
        recipe=Recipe(num_sub_blocks=2 + number, seed=SEED),
        state="finished",
    )
    for epoch in range(1, 6):
        score = 0.6 - 0.1 * abs(epoch - best_epoch)
        best = 0.6 if epoch >= best_epoch else score
        made.add(
            {
                "epoch": epoch,
                SCORE: score,
                BEST_SCORE: best,
                "best_epoch": min(epoch, best_epoch),
                "recall_at_1": score,
                "loss": 1.0,
            }
        )
    return made


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[WinnerJob]:
    """Collect the jobs that `reproduce` passes to Tune; each one succeeds at once."""
    jobs: list[WinnerJob] = []

    def tune(trainable: Any, context: RunContext, records: list[TrialRecord], trials: int, search: FixedJobs) -> None:
        assert trials == len(records)
        for record in records:
            config = search.suggest(record.folder)
            assert config is not None
            jobs.append(job_in(config))
            assert (record.state, record.reason) == ("running", None)
            assert jobs[-1].record().folder == record.folder
            end(context.sweep, record, test={"recall_at_1": 0.6})
        assert search.suggest("more") is None

    monkeypatch.setattr(winner, "run", tune)
    return jobs


class Silent:
    def print(self, text: str, style: str = "") -> None:
        assert "seed" in text or "the winner is trial" in text


def reproduce(plan: Plan, sweep: str, won: TrialRecord) -> None:
    """Reproduce the winner of seven trials, with a model left by its first run."""
    (Path(sweep) / "best").mkdir(exist_ok=True)
    file = Path(sweep) / "best" / "config.json"
    if not file.exists():
        file.write_text(json.dumps(config()))
    console: Any = Silent()
    resources = TrialResources(workers=1, cpus=1, gpus=0, concurrent=1, min_workers=1)
    context = RunContext(sweep, resources, console, Interruption())
    winner.reproduce(plan, SweepSettings(sweep, data=plan.data), won, 7, context)


def end(sweep: str, record: TrialRecord, **metrics: Any) -> None:
    """Write the files of a successful run."""
    record.state = "finished"
    record.save(sweep)
    run = f"{sweep}/trials/{record.folder}"
    count_evaluation(run)
    values = {
        "trial": record.parameters["trial"],
        "seed": record.recipe.seed,
        "epochs": 3,
        "test": {"recall_at_1": 0.5},
    }
    Outcome(**values | metrics).save(run)


def test_each_seed_has_a_run_of_its_own(tmp_path: Path) -> None:
    runs = runs_of(plan(), str(tmp_path), trial(0))
    assert [record.folder for record in runs] == ["winner", "winner-1", "winner-2"]
    assert [record.recipe for record in runs] == [Recipe(num_sub_blocks=2, seed=seed) for seed in (4, 5, 6)]


def test_held_out_runs_train_as_long_as_the_trial_took_to_be_at_its_best(
    tmp_path: Path, handed: list[WinnerJob]
) -> None:
    reproduce(plan(), str(tmp_path), trial(0))
    assert [job.epochs for job in handed] == [3, 3, 3]
    assert [job.trained for job in handed] == [None] * 3
    assert [job.first for job in handed] == [True, False, False]
    assert [job.winner for job in handed] == [0, 0, 0]
    assert handed[0].facts["validation"] == {"recall_at_1": pytest.approx(0.6)}


def test_as_published_the_trial_itself_is_the_first_run_and_the_others_pick_among_all_epochs(
    tmp_path: Path, handed: list[WinnerJob]
) -> None:
    reproduce(plan(protocol="paper"), str(tmp_path), trial(1))
    assert [job.trained for job in handed] == [f"{tmp_path}/trials/001", None, None]
    assert [job.epochs for job in handed] == [3, 6, 6]
    assert "validation" not in handed[0].facts  # no images were held out


def test_runs_that_began_keep_their_numbers_and_more_seeds_take_the_next(tmp_path: Path) -> None:
    first = runs_of(plan(reproductions=1), str(tmp_path), trial(0))
    first[0].save(str(tmp_path))
    more = runs_of(plan(), str(tmp_path), trial(0))
    assert more[0] == first[0]
    assert [record.number for record in more] == [0, 1, 2]


def test_another_winner_of_an_extended_sweep_has_runs_of_its_own_and_old_looks_count(tmp_path: Path) -> None:
    sweep = str(tmp_path)
    for record in runs_of(plan(reproductions=2), sweep, trial(0)):
        end(sweep, record)
    assert [record.number for record in runs_of(plan(reproductions=2), sweep, trial(1))] == [2, 3]
    # The same applies to the same trial with a later best epoch.
    assert [record.number for record in runs_of(plan(reproductions=2), sweep, trial(0, best_epoch=4))] == [2, 3]
    assert [record.number for record in runs_of(plan(reproductions=2), sweep, trial(0))] == [0, 1]
    for record in runs_of(plan(reproductions=1), sweep, trial(1)):
        end(sweep, record)
    assert results_of(plan(reproductions=1), sweep, [trial(0), trial(1)], trial(1)).test_evaluations == 3


@pytest.mark.parametrize(("protocol", "looks"), [("holdout", 2), ("paper", 9)])
def test_looks_of_trials_and_runs_are_added_up(protocol: Any, looks: int, tmp_path: Path) -> None:
    sweep, chosen = str(tmp_path), plan(protocol=protocol, reproductions=2)
    for record in runs_of(chosen, sweep, trial(1)):
        end(sweep, record)
    for number, epochs in ((0, 2), (1, 5)):  # the third trial finished no epoch
        for _ in range(epochs):
            count_evaluation(f"{sweep}/trials/{layout.trial_folder(number)}")
    results = results_of(chosen, sweep, [trial(0), trial(1)], trial(1))
    assert results.test_evaluations == looks


def test_a_seed_that_failed_counts_for_nothing_and_is_named(tmp_path: Path) -> None:
    sweep = str(tmp_path)
    runs = runs_of(plan(), sweep, trial(0))
    end(sweep, runs[0], test={"recall_at_1": 0.50})
    end(sweep, runs[2], test={"recall_at_1": 0.54})
    runs[1].state, runs[1].reason = "failed", "TrainingDiverged: nan"
    runs[1].save(sweep)
    results = results_of(plan(), sweep, [trial(0)], trial(0))
    assert [each.reason for each in results.reproductions] == [None, "TrainingDiverged: nan", None]
    assert results.interval["recall_at_1"].n == 2
    assert results.interval["recall_at_1"].mean == pytest.approx(0.52)
    assert results.test["winner"] == {"recall_at_1": 0.50}  # the first seed's score, not the best one


def test_runs_with_an_outcome_are_not_run_again_and_failed_ones_are(tmp_path: Path, handed: list[WinnerJob]) -> None:
    """This checks the jobs passed to Tune; other tests run Tune."""
    sweep = str(tmp_path)
    runs = runs_of(plan(), sweep, trial(0))
    end(sweep, runs[0])
    runs[1].state, runs[1].reason = "failed", "lost"
    runs[1].save(sweep)
    reproduce(plan(), sweep, trial(0))
    assert [job.number for job in handed] == [1, 2]
    described = json.loads((tmp_path / "best" / "config.json").read_text())
    assert [each["test"]["recall_at_1"] for each in described["reproductions"]] == [0.5, 0.6, 0.6]
    assert described["interval"]["recall_at_1"]["mean"] == pytest.approx(1.7 / 3)
    assert described["test_evaluations"] == 3
    assert described["trials"] == 7  # the number of existing trials, not of planned ones
    assert "3 seeds" in (tmp_path / "best" / "README.md").read_text()
    before = (tmp_path / "best" / "config.json").read_bytes()
    reproduce(plan(), sweep, trial(0))
    assert len(handed) == 2  # nothing was run
    assert (tmp_path / "best" / "config.json").read_bytes() == before


def test_without_a_model_of_the_first_seed_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trainable: Any, context: Any, records: list[TrialRecord], **rest: Any) -> None:
        records[0].state, records[0].reason = "failed", "out of memory"

    monkeypatch.setattr(winner, "run", fail)
    with pytest.raises(RunFailed, match=r"trial 0, failed .*: out of memory;"):
        reproduce(plan(reproductions=1), str(tmp_path), trial(0))


def config() -> dict[str, Any]:
    """Return the configuration that a run writes to `best/`."""
    split = {"rows": 40, "classes": 10}
    return {
        "recipe": {"backbone": "resnet50", "num_sub_blocks": 2, "seed": SEED},
        "embedding_size": 8,
        "dataset": "emoji",
        "manifest_sha256": "0" * 64,
        "splits": {"train": split, "test": split},
        "protocol": "holdout",
        "trials": 3,
        "versions": {},
        "git_revision": None,
        "trial": 0,
        "seed": SEED,
        "epochs": 3,
        "test": {"recall_at_1": 0.5},
        "baselines": {},
    }
