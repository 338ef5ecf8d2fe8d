"""The number of a sweep's evaluations on the test classes, with concurrent trials."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from dfml import storage
from orchestration.sweep_folder import layout
from orchestration.trials.outcome import count_evaluation, evaluations


def test_no_look_is_lost_where_trials_count_at_once(uri: str) -> None:
    folders = ["000", "001", "002", "winner", "winner-1"]

    def looks(folder: str) -> None:
        for _ in range(4):
            count_evaluation(storage.join(uri, "trials", folder))

    with ThreadPoolExecutor(len(folders)) as pool:
        list(pool.map(looks, folders))
    assert evaluations(uri, folders) == 20
    assert evaluations(uri, ["001", "winner-1", "007"]) == 8  # 007 has no counter
    assert json.loads(storage.read(storage.join(uri, "trials", "winner-1", "test_evaluations.json"))) == 4


def test_the_winners_runs_have_folders_of_their_own() -> None:
    assert [layout.trial_folder(number) for number in (0, 12)] == ["000", "012"]
    assert [layout.winner_folder(number) for number in (0, 1, 10)] == ["winner", "winner-1", "winner-10"]
