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
    two_way,
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


def test_where_all_cases_are_alike_the_error_is_that_of_the_seed_means():
    seed_means = np.array([0.80, 0.82, 0.85, 0.81])
    values = np.repeat(seed_means[:, None], 5, axis=1)
    interval = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=seed_means.mean(), scale=stats.sem(seed_means))
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_a_negative_component_of_the_cases_counts_as_none():
    values = np.array([[0.0, 1.0], [1.0, 0.0]])  # case means are equal, the rest is large
    assert two_way(values).cases == 0


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
