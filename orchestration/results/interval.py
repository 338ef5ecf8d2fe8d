"""A metric over several seeds: its mean and 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

CONFIDENCE = 0.95


class Interval(BaseModel):
    """The mean of n scores, and the interval that holds their expectation with 95 % confidence, by Student's t.

    Attributes:
        n: how many scores.
        mean: of them.
        half_width: the interval is mean ± half_width.
    """

    n: int
    mean: float
    half_width: float

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def interval(values: Sequence[float]) -> Interval:
    """The interval of two scores or more, of seeds drawn independently of what they score."""
    from scipy.stats import t  # takes half a second

    n = len(values)
    error = float(np.std(values, ddof=1)) / n**0.5
    return Interval(n=n, mean=float(np.mean(values)), half_width=float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error)


def intervals(scores: Sequence[dict[str, float]]) -> dict[str, Interval]:
    """The interval of each metric; none where there are less than two scores."""
    if len(scores) < 2:
        return {}
    return {name: interval([score[name] for score in scores]) for name in scores[0]}
