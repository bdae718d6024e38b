"""statistics/failures.py against counts by hand, scipy's binomial test and simulated runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.statistics.crossed import mean_interval
from pipeline.statistics.definitions import SHARE
from pipeline.statistics.failures import (
    failure_rates,
    mean_with_failures,
    rate_interval,
    runs_for_rate,
)

# limit_encoder_attention of docs/open-questions.md's kind: six runs near, one far below.
SEVEN = [0.78, 0.79, 0.70, 0.80, 0.80, 0.81, 0.82]


def dice(**runs):
    index = [(name, seed) for name, own in runs.items() for seed in range(len(own))]
    index = pd.MultiIndex.from_tuples(index, names=["variant", "seed"])
    return pd.Series(np.concatenate(list(runs.values())), index)


def test_a_run_far_below_its_variants_good_runs_has_failed():
    first, second = failure_rates(dice(a=SEVEN, b=[0.85, 0.851, 0.852, 0.849, 0.85]), 0.03)
    assert (first.variant, first.runs, first.failed) == ("a", 7, [2])
    assert first.upper_quartile == 0.81  # of seven the second best
    assert first.rate == pytest.approx(1 / 7)
    assert (second.failed, second.rate, second.upper_quartile) == ([], 0, 0.851)


@pytest.mark.parametrize(("low", "failed"), [(0.7701, []), (0.7699, [4])])
def test_the_drop_is_the_studys(low, failed):
    (found,) = failure_rates(dice(a=[0.8, 0.8, 0.801, 0.799, low, 0.8, 0.8]), 0.03)
    assert (found.failed, found.drop) == (failed, 0.03)
    (strict,) = failure_rates(dice(a=[0.8, 0.8, 0.801, 0.799, low, 0.8, 0.8]), 0.02)
    assert strict.failed == [4]


def test_runs_that_spread_widely_have_not_failed_for_that():
    runs = [0.80, 0.76, 0.84, 0.78, 0.82, 0.70, 0.86]
    (found,) = failure_rates(dice(a=runs), 0.03)
    # The better half is 0.80 to 0.86, its median 0.83, the distances 0.01 and 0.03 twice each.
    assert found.drop == pytest.approx(4 * 2.5057 * 0.02)
    assert found.failed == []


def test_the_spread_is_a_normal_ones_standard_deviation():
    normal = 0.8 + 0.01 * stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    (found,) = failure_rates(dice(a=normal), 0.03)
    assert found.drop == pytest.approx(0.04, rel=0.01)


def test_the_spread_is_of_the_better_half_which_failures_do_not_reach():
    """Half of the runs fail: their median distance is that of failures, and would hide them."""
    runs = np.array([0.80, 0.81, 0.79, 0.80, 0.82, 0.60, 0.61, 0.59, 0.60, 0.62])
    (found,) = failure_rates(dice(a=runs), 0.03)
    assert found.failed == [5, 6, 7, 8, 9]
    assert found.upper_quartile == 0.80
    assert found.drop == pytest.approx(4 * 2.5057 * 0.01)


def test_most_variants_say_how_runs_spread():
    steady, wide = 0.80 + 0.001 * np.arange(9), 0.72 + 0.02 * np.arange(9)
    drops = [
        failure_rates(dice(**own), 0.03)[0].drop
        for own in ({"a": steady, "b": steady, "c": wide}, {"a": steady, "b": wide, "c": wide})
    ]
    # Of the better five the distances are 0, 1, 1, 2 and 2 steps.
    assert drops == [0.03, pytest.approx(4 * 2.5057 * 0.02)]


def test_one_lucky_run_fails_no_other():
    (found,) = failure_rates(dice(a=[0.80, 0.801, 0.799, 0.88, 0.80, 0.80, 0.802]), 0.03)
    assert found.failed == []


def test_of_four_runs_none_is_told_from_the_others():
    for runs in ([0.85], [0.85, 0.2], [0.85, 0.85, 0.2], [0.85, 0.85, 0.85, 0.2]):
        (found,) = failure_rates(dice(a=runs), 0.03)
        assert (found.failed, found.runs) == ([], len(runs))
        assert (found.rate, found.interval) == (None, None)  # for all is not said to be well
    assert failure_rates(dice(a=[0.85, 0.85, 0.85, 0.85, 0.2]), 0.03)[0].failed == [4]


def test_a_run_without_a_number_is_not_counted():
    (found,) = failure_rates(dice(a=[0.8, np.nan, 0.8, 0.8, 0.8, 0.5]), 0.03)
    assert (found.runs, found.failed) == (5, [5])
    (nothing,) = failure_rates(dice(a=[np.nan]), 0.03)
    assert (nothing.runs, nothing.rate, nothing.interval) == (0, None, None)
    assert nothing.upper_quartile is None


@pytest.mark.parametrize(("failed", "runs"), [(0, 10), (1, 7), (3, 10), (10, 10)])
def test_the_rates_interval_is_scipys_exact_one(failed, runs):
    expected = stats.binomtest(failed, runs).proportion_ci(0.95, method="exact")
    found = rate_interval(failed, runs)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_ten_runs_without_a_failure_leave_a_rate_of_31_percent():
    assert rate_interval(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert rate_interval(0, 10).high == pytest.approx(0.308, abs=5e-4)


def test_the_seeds_that_show_a_rate_under_ten_percent():
    # 1 - 0.025^(1 / n) falls below 0.1 at n = ln 0.025 / ln 0.9 = 35.01.
    assert runs_for_rate() == 36
    assert rate_interval(0, 35).high >= 0.1 > rate_interval(0, 36).high
    one = runs_for_rate(1)
    assert rate_interval(1, one - 1).high >= 0.1 > rate_interval(1, one).high
    assert runs_for_rate(rate=0.5) == 6


def test_the_mean_over_all_runs_admits_failures_that_were_not_seen():
    values = np.random.default_rng(0).normal(0.85, 0.01, (10, 30))
    none = np.zeros(10, dtype=bool)
    rate = rate_interval(0, 10)
    found, bounds = mean_with_failures(values, none, rate, SHARE), mean_interval(values, SHARE)
    assert found.high == bounds.high
    assert found.low == pytest.approx((1 - rate.high) * bounds.low)
    raised, bounds = (
        mean_with_failures(values, none, rate, (0.5, 1)),
        mean_interval(values, (0.5, 1)),
    )
    assert raised.low == pytest.approx((1 - rate.high) * bounds.low + rate.high * 0.5)
    wild = np.tile([[0.3, 0.0], [0.0, 0.0]], (5, 1))  # plain, it leaves what a Dice can be
    assert mean_interval(wild).low < 0 < mean_with_failures(wild, none, rate, SHARE).low
    assert mean_with_failures(values[:1], none[:1], rate, SHARE) is None
    assert mean_with_failures(values[:6], none[:6], rate, SHARE) is None
    assert mean_with_failures(values, np.arange(10) > 2, rate, SHARE) is None
    assert mean_with_failures(values[:, :1], none, rate, SHARE) is None
    lost = np.arange(10) == 3
    worse = np.where(lost[:, None], values - 0.3, values)
    assert mean_with_failures(worse, lost, rate_interval(1, 10), SHARE).high == pytest.approx(
        mean_interval(values[~lost], SHARE).high
    )


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2, 0.4])
def test_failures_are_found_and_their_rate_is_covered(rate):
    rng = np.random.default_rng(1)
    right = covered = 0
    for _ in range(300):
        failed = rng.random(10) < rate
        runs = rng.normal(0.85, 0.0035, 10) - 0.05 * failed
        found, _ = failure_rates(dice(a=runs, b=rng.normal(0.85, 0.0035, 10)), 0.03)
        right += found.failed == list(np.flatnonzero(failed)) or failed.sum() >= 8
        covered += found.interval.low <= rate <= found.interval.high
    assert right >= 294
    assert covered >= 285
