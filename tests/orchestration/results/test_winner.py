"""Which runs the winner gets, what each is told, and what is put together from what they leave; without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfml.errors import InvalidInput
from dfml.task import BEST_SCORE, SCORE
from orchestration import layout
from orchestration.plan import Plan
from orchestration.records import TrialRecord
from orchestration.results import winner
from orchestration.results.winner import InTurn, results_of, runs_of
from orchestration.search.space import build_space
from orchestration.trials.evaluations import count_evaluation
from orchestration.trials.outcome import Outcome
from tests.plans import plan_of

SEED = 4


def plan(**changes: Any) -> Plan:
    space = build_space({"recipe": {"epochs": 6}, "search": {"routers": {"choice": [2, 3]}}}, "test")
    return plan_of(space, **{"seed": SEED, "reproductions": 3, **changes})


def trial(number: int, best_epoch: int = 3) -> TrialRecord:
    """Trained for 5 epochs, and at its best after `best_epoch`."""
    made = TrialRecord(
        number=number, parameters={"routers": 2}, recipe={"routers": 2 + number, "seed": SEED}, state="finished"
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


def told(plan: Plan, sweep: str, won: TrialRecord) -> list[dict[str, Any]]:
    """The configurations of its runs."""
    return [winner._configuration(plan, {"sweep": sweep}, won, record) for record in runs_of(plan, sweep, won)]


def end(sweep: str, record: TrialRecord, **figures: Any) -> None:
    """Leave what a run leaves that ended well."""
    record.state = "finished"
    record.save(sweep)
    run = f"{sweep}/trials/{record.folder}"
    count_evaluation(run)
    values = {
        "trial": record.parameters["trial"],
        "seed": record.recipe["seed"],
        "epochs": 3,
        "test": {"recall_at_1": 0.5},
    }
    Outcome(**values | figures).save(run)


def test_each_seed_has_a_run_of_its_own(tmp_path: Path) -> None:
    runs = runs_of(plan(), str(tmp_path), trial(0))
    assert [record.folder for record in runs] == ["winner", "winner-1", "winner-2"]
    assert [record.recipe for record in runs] == [{"routers": 2, "seed": seed} for seed in (4, 5, 6)]


def test_held_out_runs_train_as_long_as_the_trial_took_to_be_at_its_best(tmp_path: Path) -> None:
    configurations = told(plan(), str(tmp_path), trial(0))
    assert [each["job"]["epochs"] for each in configurations] == [3, 3, 3]
    assert [each["job"]["trained"] for each in configurations] == [None] * 3
    assert [each["job"]["first"] for each in configurations] == [True, False, False]
    facts = configurations[0]["job"]["facts"]
    assert facts["validation"] == {"recall_at_1": pytest.approx(0.6)}


def test_as_published_the_trial_itself_is_the_first_run_and_the_others_pick_among_all_epochs(tmp_path: Path) -> None:
    configurations = told(plan(protocol="paper"), str(tmp_path), trial(1))
    assert [each["job"]["trained"] for each in configurations] == [f"{tmp_path}/trials/001", None, None]
    assert [each["job"]["epochs"] for each in configurations] == [3, 6, 6]
    assert "validation" not in configurations[0]["job"]["facts"]  # no image was held out


def test_runs_that_began_keep_their_numbers_and_more_seeds_take_the_next(tmp_path: Path) -> None:
    first = runs_of(plan(reproductions=1), str(tmp_path), trial(0))
    first[0].save(str(tmp_path))
    more = runs_of(plan(), str(tmp_path), trial(0))
    assert more[0] == first[0]
    assert [record.number for record in more] == [-1, -2, -3]


def test_another_winner_of_an_extended_sweep_has_runs_of_its_own_and_old_looks_count(tmp_path: Path) -> None:
    sweep = str(tmp_path)
    for record in runs_of(plan(reproductions=2), sweep, trial(0)):
        end(sweep, record)
    assert [record.number for record in runs_of(plan(reproductions=2), sweep, trial(1))] == [-3, -4]
    # Or the same trial, if it was at its best later.
    assert [record.number for record in runs_of(plan(reproductions=2), sweep, trial(0, best_epoch=4))] == [-3, -4]
    assert [record.number for record in runs_of(plan(reproductions=2), sweep, trial(0))] == [-1, -2]
    for record in runs_of(plan(reproductions=1), sweep, trial(1)):
        end(sweep, record)
    assert results_of(plan(reproductions=1), sweep, [trial(0), trial(1)], trial(1)).test_evaluations == 3


@pytest.mark.parametrize(("protocol", "looks"), [("holdout", 2), ("paper", 9)])
def test_looks_of_trials_and_runs_are_added_up(protocol: Any, looks: int, tmp_path: Path) -> None:
    sweep, chosen = str(tmp_path), plan(protocol=protocol, reproductions=2)
    for record in runs_of(chosen, sweep, trial(1)):
        end(sweep, record)
    for number, epochs in ((0, 2), (1, 5)):  # the third trial never came to an epoch
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
    assert results.test["winner"] == {"recall_at_1": 0.50}  # the first seed's, not the best


def test_runs_with_an_outcome_are_not_run_again_and_failed_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed to Tune; Tune itself is another test's."""
    sweep = str(tmp_path)
    runs = runs_of(plan(), sweep, trial(0))
    end(sweep, runs[0])
    runs[1].state, runs[1].reason = "failed", "lost"
    runs[1].save(sweep)
    (tmp_path / "best").mkdir()
    handed: list[TrialRecord] = []

    def tune(trainable: Any, setting: Any, records: list[TrialRecord], trials: int, search: InTurn) -> None:
        assert trials == len(records)
        assert [search.suggest(str(i))["number"] for i in range(trials)] == [-2, -3]  # type: ignore[index]
        assert search.suggest("more") is None
        handed.extend(record.model_copy() for record in records)
        for record in records:
            end(sweep, record, test={"recall_at_1": 0.6})

    class Silent:
        def say(self, text: str) -> None:
            assert "5, 6 to run" in text

    monkeypatch.setattr(winner, "run", tune)
    (tmp_path / "best" / "config.json").write_text(json.dumps(config()))
    setting: Any = type("Setting", (), {"console": Silent()})
    winner.reproduce(plan(), {"sweep": sweep}, trial(0), 7, setting)
    assert [(record.number, record.state, record.reason) for record in handed] == [
        (-2, "running", None),
        (-3, "running", None),
    ]
    described = json.loads((tmp_path / "best" / "config.json").read_text())
    assert [each["test"]["recall_at_1"] for each in described["reproductions"]] == [0.5, 0.6, 0.6]
    assert described["interval"]["recall_at_1"]["mean"] == pytest.approx(1.7 / 3)
    assert described["test_evaluations"] == 3
    assert described["trials"] == 7  # that there were, whatever was planned
    assert "3 seeds" in (tmp_path / "best" / "README.md").read_text()
    before = (tmp_path / "best" / "config.json").read_bytes()
    monkeypatch.setattr(winner, "run", None)  # would fail if it were called
    winner.reproduce(plan(), {"sweep": sweep}, trial(0), 7, setting)
    assert (tmp_path / "best" / "config.json").read_bytes() == before


def test_without_a_model_of_the_first_seed_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trainable: Any, setting: Any, records: list[TrialRecord], **rest: Any) -> None:
        records[0].state, records[0].reason = "failed", "out of memory"

    class Silent:
        def say(self, text: str) -> None:
            pass

    monkeypatch.setattr(winner, "run", fail)
    setting: Any = type("Setting", (), {"console": Silent()})
    with pytest.raises(InvalidInput, match=r"trial 0, failed .*: out of memory;"):
        winner.reproduce(plan(reproductions=1), {"sweep": str(tmp_path)}, trial(0), 7, setting)


def config() -> dict[str, Any]:
    """What a run writes into `best/`."""
    split = {"rows": 40, "classes": 10}
    return {
        "recipe": {"backbone": "resnet50", "routers": 2, "seed": SEED},
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
