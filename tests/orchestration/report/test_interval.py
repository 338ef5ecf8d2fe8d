"""The mean and the 95 % interval over seeds."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from orchestration.report.reproductions import interval, intervals

# Two-sided 95 % quantiles of Student's t from printed tables, by the number of scores.
T = {2: 12.706, 3: 4.303, 5: 2.776, 11: 2.228, 31: 2.042}


@pytest.mark.parametrize("n", T)
def test_half_width_is_students_quantile_times_the_standard_error(n: int) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.02, n).tolist()
    found = interval(values)
    assert found.n == n
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert found.half_width == pytest.approx(T[n] * statistics.stdev(values) / n**0.5, rel=5e-4)
    assert (found.low + found.high) / 2 == pytest.approx(found.mean)


def test_intervals_of_few_scores_hold_the_true_mean_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(0.7, 0.1, 3).tolist()) for _ in range(4000)]
    held = np.mean([each.low <= 0.7 <= each.high for each in found])
    assert held == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors; with the normal quantile 0.81


def test_each_metric_has_its_own_and_one_score_has_none() -> None:
    scores = [{"recall_at_1": 0.5, "nmi": 0.8}, {"recall_at_1": 0.7, "nmi": 0.8}]
    found = intervals(scores)
    assert found["recall_at_1"].mean == pytest.approx(0.6)
    assert found["nmi"].half_width == 0
    assert intervals(scores[:1]) == {}
