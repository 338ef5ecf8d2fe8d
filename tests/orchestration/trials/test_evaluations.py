"""How often a sweep looked at the test classes, with several trials at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from dfml import storage
from orchestration import layout
from orchestration.trials.evaluations import count_evaluation, evaluations


def test_no_look_is_lost_where_trials_count_at_once(place: str) -> None:
    numbers = [0, 1, 2, -1, -2]

    def looks(number: int) -> None:
        for _ in range(4):
            count_evaluation(storage.join(place, "trials", layout.trial_folder(number)))

    with ThreadPoolExecutor(len(numbers)) as pool:
        list(pool.map(looks, numbers))
    assert evaluations(place, numbers) == 20
    assert evaluations(place, [1, -2, 7]) == 8  # 7 never looked
    assert json.loads(storage.read(storage.join(place, "trials", "winner-1", "test_evaluations.json"))) == 4


def test_the_winners_runs_have_folders_of_their_own() -> None:
    assert [layout.trial_folder(number) for number in (0, 12, -1, -2, -11)] == [
        "000",
        "012",
        "winner",
        "winner-1",
        "winner-10",
    ]
