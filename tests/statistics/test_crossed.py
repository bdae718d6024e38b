"""statistics/crossed.py against the written-out analysis of variance and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from pipeline.statistics.crossed import (
    around,
    by_group,
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


def patients(rng: np.random.Generator, sizes: list[int]) -> np.ndarray:
    """The patient of each case, in no order; sizes: of the patients' cases."""
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def test_groups_of_a_table_worked_out_by_hand():
    # The mean is 4, G / C is 3 / 5. Groups by their first cases: 7 of deviations -3 and 2, 2 of 0
    # and 4, 5 of -3.
    values, groups = np.array([1.0, 4.0, 8.0, 6.0, 1.0]), np.array([7, 2, 2, 7, 5])
    np.testing.assert_allclose(by_group(values, groups), [3.4, 6.4, 2.2], rtol=1e-15)


def test_the_error_by_group_is_the_cluster_robust_one_of_statsmodels():
    """Whose small-sample factor, G / (G - 1) * (N - 1) / (N - k), is G / (G - 1) of one mean."""
    rng = np.random.default_rng(4)
    for sizes in ([5] * 20, [1, 1, 1, 2, 3, 9, 30], [1] * 12, [40, 1]):
        groups = patients(rng, sizes)
        values = rng.normal(0.8, 0.1, len(groups)) + rng.normal(0, 0.1, len(sizes))[groups]
        fitted = sm.OLS(values, np.ones(len(values))).fit(
            cov_type="cluster", cov_kwds={"groups": groups, "use_correction": True}
        )
        units = by_group(values, groups)
        assert len(units) == len(sizes)
        assert units.mean() == pytest.approx(values.mean(), rel=1e-14)
        assert np.sqrt(units.var(ddof=1) / len(units)) == pytest.approx(fitted.bse[0], rel=1e-12)


def test_groups_of_one_case_each_change_nothing_to_the_bit():
    values = np.random.default_rng(5).random((2, 3, 7))
    assert by_group(values, np.array([4, 0, 9, 2, 1, 30, -5])) is values


def test_groups_are_linear_in_the_values_and_taken_for_each_run_apart():
    rng = np.random.default_rng(6)
    groups = patients(rng, [1, 2, 3, 4])
    one, other = rng.random((2, 3, 10)), rng.random((2, 3, 10))
    both = by_group(2 * one - other, groups)
    np.testing.assert_allclose(both, 2 * by_group(one, groups) - by_group(other, groups))
    np.testing.assert_allclose(by_group(one, groups)[1, 2], by_group(one[1, 2], groups))
    np.testing.assert_allclose(by_group(one.mean(axis=1), groups), by_group(one, groups).mean(1))


def test_the_names_of_groups_do_not_matter_and_their_first_cases_order_them():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    found = by_group(values, np.array([9, 3, 9, 1]))
    np.testing.assert_array_equal(found, by_group(values, np.array([0, 1, 0, 2])))
    assert found[1] == pytest.approx(2.5 + 0.75 * (2 - 2.5))
    assert by_group(values, np.array([8, 8, 8, 8])).tolist() == [2.5]


def test_two_way_errors_by_group_hold_a_patients_share_and_no_seeds():
    """Cases repeated five times say nothing that one of each did not."""
    once = simulate(np.random.default_rng(7), [0.8], seeds=6, cases=30)[0]
    five = np.repeat(once, 5, axis=1)
    errors = two_way(by_group(five, np.repeat(np.arange(30), 5)))
    alone = two_way(once)
    assert errors.seeds == pytest.approx(alone.seeds)
    assert errors.cases == pytest.approx(alone.cases)
    assert two_way(five).cases < 0.25 * alone.cases


def test_an_interval_on_the_logit_is_the_one_that_statsmodels_has_of_a_proportion():
    """A logistic model of a constant alone, whose Wald interval is the delta method's."""
    found = np.repeat([1.0, 0.0], [17, 3])
    fitted = sm.Logit(found, np.ones(20)).fit(disp=0)
    low, high = 1 / (1 + np.exp(-fitted.conf_int()[0]))
    reach = stats.norm.ppf(0.975) * np.sqrt(0.85 * 0.15 / 20)
    interval = around(0.85, reach, (0.0, 1.0))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.scale == "logit"
    wider = around(85, 100 * reach, (0.0, 100.0))
    assert (wider.low, wider.high) == pytest.approx((100 * low, 100 * high))


def test_an_interval_on_the_log_is_the_one_that_statsmodels_has_of_a_rate():
    counts = np.array([3.0, 0, 1, 4, 2, 2])
    fitted = sm.Poisson(counts, np.ones(6)).fit(disp=0)
    low, high = np.exp(fitted.conf_int()[0])
    interval = around(2.0, stats.norm.ppf(0.975) * np.sqrt(2 / 6), (0.0, None))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.scale == "log"


def test_an_interval_never_leaves_the_bounds_and_is_plain_without_them():
    plain = around(0.99, 0.02)
    assert (plain.low, plain.high, plain.scale) == (pytest.approx(0.97), 1.01, "plain")
    for mean in (1e-12, 0.02, 0.5, 0.97, 1 - 1e-12):
        for reach in (1e-9, 0.01, 0.3, 20.0):
            share, amount = around(mean, reach, (0.0, 1.0)), around(mean, reach, (0.0, None))
            assert 0 <= share.low <= mean <= share.high <= 1
            assert 0 <= amount.low <= mean <= amount.high < np.inf


def test_a_mean_at_a_bound_has_the_part_of_its_plain_interval_within():
    for bounds, mean, expected in (
        ((0.0, 1.0), 1.0, (0.8, 1.0)), ((0.0, 1.0), 0.0, (0.0, 0.2)), ((0.0, None), 0.0, (0.0, 0.2))
    ):  # fmt: skip
        found = around(mean, 0.2, bounds)
        assert ((found.low, found.high), found.scale) == (pytest.approx(expected), "plain")
        exact = around(mean, 0.0, bounds)
        assert (exact.low, exact.high) == (mean, mean)
