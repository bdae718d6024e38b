"""statistics/crossed.py against the written-out analysis of variance and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from pipeline.statistics.crossed import (
    case_interval,
    mean_interval,
    single_run_interval,
    two_way,
    two_way_p,
    variance_components,
)
from studies import as_table, simulate

HAND = np.array([[1.0, 2.0, 6.0], [3.0, 6.0, 6.0]])  # 2 seeds, 3 cases


def test_the_errors_of_a_table_worked_out_by_hand():
    # Seed means 3 and 5: variance 2, over 2 seeds 1. Case means 2, 4, 6: variance 4. Residuals
    # 0, -1, 1 and 0, 1, -1: sum of squares 4 over (2 - 1)(3 - 1) = 2. Cases: 4/3 - 2/6 = 1.
    errors = two_way(HAND)
    assert errors.seeds == pytest.approx(1)
    assert errors.cases == pytest.approx(1)
    assert errors.total == pytest.approx(np.sqrt(2))


def test_the_errors_are_the_mean_squares_of_statsmodels():
    values = simulate(np.random.default_rng(1), [0.8], seeds=6, cases=40)
    table = anova_lm(ols("value ~ C(seed) + C(case)", as_table(values)).fit())
    square = table["sum_sq"] / table["df"]
    seeds, cases = values.shape[1:]
    expected = (square["C(seed)"] + square["C(case)"] - square["Residual"]) / (seeds * cases)
    assert two_way(values[0]).total ** 2 == pytest.approx(expected)


def test_the_errors_of_many_tables_are_those_of_each():
    values = np.random.default_rng(6).random((3, 4, 5))
    together = two_way(values)
    for place, table in enumerate(values):
        alone = two_way(table)
        assert together.seeds[place] == pytest.approx(alone.seeds)
        assert together.cases[place] == pytest.approx(alone.cases)
        assert two_way_p(values, 0.5)[place] == pytest.approx(two_way_p(table, 0.5))


def test_where_all_cases_are_alike_the_error_is_that_of_the_seed_means():
    seed_means = np.array([0.80, 0.82, 0.85, 0.81])
    values = np.repeat(seed_means[:, None], 5, axis=1)
    interval = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=seed_means.mean(), scale=stats.sem(seed_means))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    expected = stats.ttest_1samp(seed_means, 0.8).pvalue
    assert two_way_p(values, 0.8) == pytest.approx(expected)


def test_the_prediction_interval_is_the_textbooks_where_cases_are_alike():
    seed_means = np.array([0.80, 0.82, 0.85, 0.81])
    values = np.repeat(seed_means[:, None], 5, axis=1)
    reach = stats.t.ppf(0.975, 3) * seed_means.std(ddof=1) * np.sqrt(1 + 1 / 4)
    interval = single_run_interval(values)
    assert interval.high - interval.low == pytest.approx(2 * reach)


def test_the_prediction_interval_of_a_table_worked_out_by_hand():
    # HAND's squared errors are 1 of the seeds and 1 of the cases. One more run has another seed,
    # whose mean's variance is 2, and other cases, whose mean's variance is 1: 1 + 1 + 2 + 1.
    interval = single_run_interval(HAND)
    reach = stats.t.ppf(0.975, 1) * np.sqrt(5)
    assert (interval.low, interval.high) == pytest.approx((4 - reach, 4 + reach))


def test_one_more_run_on_other_cases_lies_in_the_prediction_interval_19_times_of_20():
    # 5 seeds, 400 cases, and nearly all of the spread that of the cases: with their error counted
    # once the interval would hold 83 %.
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(1000):
        values = rng.normal(0, 0.1, (5, 1)) + rng.normal(0, 5, 400) + rng.normal(0, 0.1, (5, 400))
        run = rng.normal(0, 0.1) + rng.normal(0, 5, 400) + rng.normal(0, 0.1, 400)
        interval = single_run_interval(values)
        inside += interval.low <= run.mean() <= interval.high
    assert 925 <= inside <= 975  # a standard deviation is 7


def test_a_negative_component_of_the_cases_counts_as_none():
    values = np.array([[0.0, 1.0], [1.0, 0.0]])  # case means are equal, the rest is large
    assert two_way(values).cases == 0


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 1.0), (0.01, 0.0)])
def test_without_any_error_only_the_null_itself_is_likely(shift, expected):
    assert two_way_p(np.full((3, 4), shift)) == expected


def test_variance_components_are_found_again():
    # Large numbers of each, so that the estimates lie close to the truth of 4, 1, 9 and 0.25.
    rng = np.random.default_rng(2)
    effects = rng.normal(0, 2, 300)
    values = simulate(
        rng,
        effects,
        seeds=20,
        cases=40,
        seed_deviation=1,
        case_deviation=0,
        fit_deviation=0,
        rest_deviation=0.5,
    ) + np.resize([3.0, -3.0], 40)  # cases of variance 9 (9 * 40 / 39 with n - 1)
    found = variance_components(values)
    assert found.variant == pytest.approx(4, rel=0.2)
    assert found.seed == pytest.approx(1, rel=0.05)
    assert found.case == pytest.approx(9 * 40 / 39, rel=0.01)
    assert found.rest == pytest.approx(0.25, rel=0.02)


def test_an_interval_over_cases_alone_is_scipys_one_sample_t():
    values = np.random.default_rng(3).normal(0.8, 0.1, 40)
    found, expected = case_interval(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    none = case_interval(np.full(5, 0.25))
    assert (none.low, none.high) == (0.25, 0.25)
