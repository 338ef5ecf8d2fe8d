"""How often a sweep looks at the test classes.

Each run counts its own looks in its own folder, where it alone writes: trials that run at once can't lose one another's, on S3 either,
which has no way to add to a number. The sweep's count is their sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from dfml import storage
from orchestration import layout


def count_evaluation(run: str) -> None:
    """Count a look at the test classes *before* it happens, so that one that is interrupted counts as well.

    Args:
        run: folder or URI of the run that looks; called by one rank of it.
    """
    storage.write(_counter(run), json.dumps(_count(run) + 1).encode())


def evaluations(sweep: str, numbers: Iterable[int]) -> int:
    """The looks of some of a sweep's runs together.

    Args:
        sweep: its folder or URI.
        numbers: of trials and of the winner's runs; one that never looked counts 0.
    """
    return sum(_count(storage.join(sweep, layout.TRIALS, layout.trial_folder(number))) for number in numbers)


def _counter(run: str) -> str:
    return storage.join(run, layout.TEST_EVALUATIONS)


def _count(run: str) -> int:
    counter = _counter(run)
    return int(json.loads(storage.read(counter))) if storage.exists(counter) else 0
